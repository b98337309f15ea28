//! How much can still be written.

use crate::error::Context;
use crate::info::devices_of;
use crate::{Result, TopLevel, ioctl};

/// Never used by btrfs, at the start of each device
/// (`BTRFS_DEVICE_RANGE_RESERVED`).
const RESERVED_AT_START: u64 = 1 << 20;

/// Bits of `btrfs_chunk.type`, `linux/btrfs_tree.h`.
const DATA: u64 = 1 << 0;
const METADATA: u64 = 1 << 2;
const RAID0: u64 = 1 << 3;
const RAID1: u64 = 1 << 4;
const DUP: u64 = 1 << 5;
const RAID10: u64 = 1 << 6;
const RAID5: u64 = 1 << 7;
const RAID6: u64 = 1 << 8;
const RAID1C3: u64 = 1 << 9;
const RAID1C4: u64 = 1 << 10;
/// `BTRFS_SPACE_INFO_GLOBAL_RSV`: not a profile, the reserve for deletions.
const GLOBAL_RESERVE: u64 = 1 << 49;

/// The block groups of one type and profile, in bytes as files see them
/// (one copy).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockGroups {
    /// Type and profile: `BTRFS_BLOCK_GROUP_*`.
    pub flags: u64,
    /// Allocated.
    pub total: u64,
    /// Of it, used.
    pub used: u64,
}

/// A device, in raw bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Its size.
    pub total: u64,
    /// Of it, given to block groups.
    pub allocated: u64,
}

/// The space of a filesystem. `statfs` mixes data and metadata; a snapshot
/// needs only metadata, an upgrade needs both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// Every type and profile in use.
    pub groups: Vec<BlockGroups>,
    /// What metadata keeps back for deletions, in bytes.
    pub global_reserve: u64,
    /// Every device.
    pub devices: Vec<Device>,
}

impl Space {
    /// How many bytes of file data can still be written, if nothing else takes
    /// the unallocated space: the free rest of its block groups and what new
    /// ones would hold. Exact for one device; a lower bound is not promised
    /// for raid5 and raid6.
    pub fn data_available(&self) -> u64 {
        self.free(DATA) + self.growth(DATA)
    }

    /// How many bytes of metadata can still be written, if nothing else takes
    /// the unallocated space; the global reserve is left out.
    pub fn metadata_available(&self) -> u64 {
        (self.free(METADATA) + self.growth(METADATA)).saturating_sub(self.global_reserve)
    }

    /// Bytes of the devices that no block group has, copies included.
    pub fn unallocated(&self) -> u64 {
        self.devices.iter().map(Device::unallocated).sum()
    }

    fn free(&self, kind: u64) -> u64 {
        let groups = self.groups.iter().filter(|g| g.flags & kind != 0);
        groups.map(|g| g.total.saturating_sub(g.used)).sum()
    }

    fn growth(&self, kind: u64) -> u64 {
        // While a balance converts there are two profiles; the largest is the
        // one most probably grown.
        let groups = self.groups.iter().filter(|g| g.flags & kind != 0);
        let flags = groups.max_by_key(|g| g.total).map_or(0, |g| g.flags);
        let free: Vec<u64> = self.devices.iter().map(Device::unallocated).collect();
        new_space(flags, &free)
    }
}

impl Device {
    fn unallocated(&self) -> u64 {
        self.total
            .saturating_sub(self.allocated.max(RESERVED_AT_START))
    }
}

/// What block groups of this profile, made on the free space of these devices,
/// would hold.
fn new_space(flags: u64, free: &[u64]) -> u64 {
    let sum: u64 = free.iter().sum();
    let usable = free.iter().filter(|&&f| f > 0).count() as u64;
    let copies = |n: u64| copies_on_different_devices(n, free);
    match flags {
        f if f & (RAID1 | RAID10) != 0 => copies(2),
        f if f & RAID1C3 != 0 => copies(3),
        f if f & RAID1C4 != 0 => copies(4),
        f if f & DUP != 0 => sum / 2,
        f if f & RAID5 != 0 && usable >= 2 => sum / usable * (usable - 1),
        f if f & RAID6 != 0 && usable >= 3 => sum / usable * (usable - 2),
        f if f & (RAID5 | RAID6) != 0 => 0,
        f if f & RAID0 != 0 && usable < 1 => 0,
        _ => sum,
    }
}

/// The most bytes of which `copies` copies fit on different devices: with `x`
/// bytes, no device can hold more than `x`.
fn copies_on_different_devices(copies: u64, free: &[u64]) -> u64 {
    let (mut low, mut high) = (0, free.iter().sum::<u64>() / copies);
    while low < high {
        let x = low + (high - low).div_ceil(2);
        let held: u128 = free.iter().map(|&f| u128::from(f.min(x))).sum();
        if held >= u128::from(copies) * u128::from(x) {
            low = x;
        } else {
            high = x - 1;
        }
    }
    low
}

impl TopLevel {
    /// The space (`BTRFS_IOC_SPACE_INFO`, `BTRFS_IOC_DEV_INFO`). What is
    /// deleted counts as used until it is committed, and what is only in memory
    /// as free: [`TopLevel::sync`] first for exact numbers.
    pub fn space(&self) -> Result<Space> {
        let all = ioctl::space_info(self.fd()).on("read the space of", self.device())?;
        let (reserve, groups): (Vec<_>, Vec<_>) = all
            .into_iter()
            .map(|(flags, total, used)| BlockGroups { flags, total, used })
            .partition(|g| g.flags & GLOBAL_RESERVE != 0);
        let (_, devices) = devices_of(self.fd())?;
        Ok(Space {
            groups,
            global_reserve: reserve.iter().map(|r| r.total).sum(),
            devices: devices
                .iter()
                .map(|d| Device {
                    total: d.total,
                    allocated: d.allocated,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn one_device(data: u64, metadata: u64) -> Space {
        let groups = vec![
            BlockGroups {
                flags: DATA | data,
                total: 10 * GIB,
                used: 9 * GIB,
            },
            BlockGroups {
                flags: METADATA | metadata,
                total: GIB,
                used: GIB / 2,
            },
        ];
        Space {
            groups,
            global_reserve: GIB / 4,
            devices: vec![Device {
                total: 20 * GIB,
                allocated: 16 * GIB,
            }],
        }
    }

    #[test]
    fn single_data_and_dup_metadata() {
        let space = one_device(0, DUP);
        assert_eq!(space.unallocated(), 4 * GIB);
        assert_eq!(space.data_available(), 5 * GIB);
        assert_eq!(space.metadata_available(), 2 * GIB + GIB / 4);
    }

    #[test]
    fn full_is_zero_and_not_less() {
        let mut space = one_device(0, DUP);
        space.devices[0].allocated = space.devices[0].total;
        for group in &mut space.groups {
            group.used = group.total;
        }
        assert_eq!((space.data_available(), space.metadata_available()), (0, 0));
    }

    #[test]
    fn copies_need_different_devices() {
        assert_eq!(new_space(RAID1, &[10, 10]), 10);
        assert_eq!(new_space(RAID1, &[100, 10]), 10);
        assert_eq!(new_space(RAID1, &[6, 5, 5]), 8);
        assert_eq!(new_space(RAID1, &[100]), 0);
        assert_eq!(new_space(RAID1C3, &[10, 10, 4]), 4);
        assert_eq!(new_space(RAID1, &[]), 0);
        assert_eq!(new_space(RAID5, &[9, 9, 9]), 18);
        assert_eq!(new_space(RAID6, &[9, 9]), 0);
        assert_eq!(new_space(0, &[3, 4]), 7);
        assert_eq!(new_space(DUP, &[3, 4]), 3);
    }
}
