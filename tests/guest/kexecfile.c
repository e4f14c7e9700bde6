/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Starts another kernel without a reset of the machine.
 *
 *   kexecfile KERNEL INITRAMFS COMMAND-LINE
 *
 * Devices are not told: they are in the state in which this kernel leaves
 * them, until a driver of the next one resets them.  The arguments name
 * regular files; the kernel does not read from anything else.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/reboot.h>
#include <sys/reboot.h>

int main(int argc, char **argv)
{
    int kernel, initramfs;

    if (argc != 4) {
        fprintf(stderr, "usage: kexecfile KERNEL INITRAMFS COMMAND-LINE\n");
        return 2;
    }
    kernel = open(argv[1], O_RDONLY);
    initramfs = open(argv[2], O_RDONLY);
    if (kernel < 0 || initramfs < 0) {
        perror("open");
        return 1;
    }
    if (syscall(SYS_kexec_file_load, kernel, initramfs, strlen(argv[3]) + 1,
                argv[3], 0UL)) {
        perror("kexec_file_load");
        return 1;
    }
    reboot(LINUX_REBOOT_CMD_KEXEC);
    perror("reboot");
    return 1;
}
