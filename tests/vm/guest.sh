# Runs in the virtual machine: prepares its disks and runs tests.
#
#   guest.sh KIND PROGRAM TESTS [ACKED]
#
# KIND is thick, thin, or flakey: thick on a disk that can be made to fail. PROGRAM is a test binary, TESTS an expression
# for its tests. /dev/vda becomes the volume group vg0, with extents of 1 MiB and the thin pool tp; /dev/vdb, if it is
# there, has a file system for /disk. Disks that were used before keep what they hold.
kind=$1 program=$2 tests=$3
export WALBSH=/bin/walbsh WALBSH_VM_ACKED=${4:-}

disk=/dev/vda
if [ "$kind" = flakey ]; then
  disk=/dev/mapper/disk
  dmsetup create disk --table "0 $(cat /sys/block/vda/size) linear /dev/vda 0" || exit 1
  sed -i 's|use_devicesfile = 0|& global_filter = [ "r,^/dev/vda$,", "a,.*," ]|' /etc/lvm/lvm.conf
  kind=thick
fi
export WALBSH_VM=$kind
mkdir -p /disk
[ ! -e /dev/vdb ] || mount -t ext4 /dev/vdb /disk || exit 1
if ! lvm vgs vg0 >/dev/null 2>&1; then
  { lvm pvcreate "$disk" && lvm vgcreate -s 1m vg0 "$disk" && lvm lvcreate --yes --type thin-pool -L 100m -n tp vg0; } >/tmp/setup 2>&1 ||
    { cat /tmp/setup; exit 1; }
fi
lvm vgchange --activate y vg0 >/tmp/setup 2>&1 || { cat /tmp/setup; exit 1; }
IMAGETEST_LVM=vg0
[ "$kind" = thick ] || IMAGETEST_LVM=vg0/tp
export IMAGETEST_LVM
"$program" -test.v -test.timeout 580s -test.run "$tests"
