/*
 * virtio-mem-pci: the PCI proxy, and the memory device as machines see it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef QEMU_VIRTIO_MEM_PCI_H
#define QEMU_VIRTIO_MEM_PCI_H

#include "hw/virtio/virtio-mem.h"
#include "hw/virtio/virtio-pci.h"
#include "qom/object.h"

/* Machines test for it to map the memory and to plug and unplug the device. */
#define TYPE_VIRTIO_MEM_PCI "virtio-mem-pci-base"
OBJECT_DECLARE_SIMPLE_TYPE(VirtIOMEMPCI, VIRTIO_MEM_PCI)

/**
 * struct VirtIOMEMPCI - the proxy
 * @vdev: the device behind it
 * @size_changed: told by @vdev of each change of the plugged size
 */
struct VirtIOMEMPCI {
    VirtIOPCIProxy parent_obj;
    VirtIOMEM vdev;
    Notifier size_changed;
};

#endif /* QEMU_VIRTIO_MEM_PCI_H */
