//! Theoretical occupancy: how many blocks of a kernel a multiprocessor holds.

/// Limits per multiprocessor, from the table of technical specifications per compute capability in the CUDA C++
/// programming guide.
pub struct Device {
    pub sm: u32,
    /// The PTX that its driver would take.
    pub ptx: u32,
    warps: u32,
    blocks: u32,
    shared: u32,
    /// Shared memory that the system keeps per block.
    reserved: u32,
}

pub const DEVICES: [Device; 6] = [
    Device { sm: 75, ptx: 75, warps: 32, blocks: 16, shared: 64 << 10, reserved: 0 },
    Device { sm: 80, ptx: 80, warps: 64, blocks: 32, shared: 164 << 10, reserved: 1024 },
    Device { sm: 86, ptx: 80, warps: 48, blocks: 16, shared: 100 << 10, reserved: 1024 },
    Device { sm: 89, ptx: 80, warps: 48, blocks: 24, shared: 100 << 10, reserved: 1024 },
    Device { sm: 90, ptx: 90, warps: 64, blocks: 32, shared: 228 << 10, reserved: 1024 },
    Device { sm: 100, ptx: 90, warps: 64, blocks: 32, shared: 228 << 10, reserved: 1024 },
];

/// Registers per multiprocessor, the same for all of them.
const REGISTERS: u32 = 64 << 10;
/// Registers are given to warps by so many, shared memory to blocks by so many bytes.
const REGISTER_UNIT: u32 = 256;
const SHARED_UNIT: u32 = 128;
/// Schedulers of a multiprocessor; each has a quarter of the registers.
const SCHEDULERS: u32 = 4;

impl Device {
    /// Blocks at once, and the percentage of warps that they fill.
    pub fn occupancy(&self, threads: u32, registers: u32, shared: u32) -> (u32, u32) {
        let warps = threads.div_ceil(32);
        let per_warp = (registers.max(1) * 32).next_multiple_of(REGISTER_UNIT);
        let by_registers = REGISTERS / SCHEDULERS / per_warp * SCHEDULERS / warps;
        let per_block = (shared + self.reserved).next_multiple_of(SHARED_UNIT);
        let by_shared = self.shared.checked_div(per_block).unwrap_or(self.blocks);
        let blocks = self.blocks.min(self.warps / warps).min(by_registers).min(by_shared);
        (blocks, 100 * blocks * warps / self.warps)
    }
}

#[test]
fn occupancy_is_that_of_the_guide() {
    let sm_80 = &DEVICES[1];
    // 64 warps of 32 registers fill it; 128 registers leave a quarter; 48 KB and the system's share leave three blocks.
    assert_eq!(sm_80.occupancy(256, 32, 0), (8, 100));
    assert_eq!(sm_80.occupancy(256, 128, 0), (2, 25));
    assert_eq!(sm_80.occupancy(128, 32, 48 << 10), (3, 18));
    assert_eq!(DEVICES[0].occupancy(1024, 32, 0), (1, 100));
}
