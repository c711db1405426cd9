//! The plan beside what was measured.

use luthier_core::Section;
use luthier_model::device::{Component, HostComponent, Ledger};
use luthier_model::memory::MemoryPlan;

/// `1.25 GB`, `38.3 MB`, `912 B`: decimal units, as disks and cards are sold.
pub(crate) fn bytes_text(bytes: usize) -> String {
    let bytes = bytes as f64;
    for (unit, size) in [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)] {
        if bytes >= size {
            return format!("{:.*} {unit}", if bytes >= 100.0 * size { 0 } else { 1 }, bytes / size);
        }
    }
    format!("{bytes} B")
}

pub(super) fn memory_section(plan: &MemoryPlan, ledger: &Ledger, resident: Option<usize>) -> Section {
    let row = |name: String, planned: usize, measured: usize| {
        let difference = (measured as i64 - planned as i64).to_string();
        vec![name, bytes_text(planned), bytes_text(measured), difference]
    };
    let mut rows: Vec<Vec<String>> = Component::ALL
        .into_iter()
        .filter(|component| plan.bytes(*component) > 0 || ledger.peak(*component) > 0)
        .map(|component| row(component.to_string(), plan.bytes(component), ledger.peak(component)))
        .collect();
    rows.push(row("engine, total".to_owned(), plan.total(), ledger.total_peak()));
    for component in HostComponent::ALL {
        let (planned, measured) = (plan.host.bytes(component), ledger.host_peak(component));
        if planned > 0 || measured > 0 {
            rows.push(row(format!("page-locked host memory: {component}"), planned, measured));
        }
    }
    if let Some(resident) = resident {
        rows.push(vec!["process, resident peak".to_owned(), "—".to_owned(), bytes_text(resident), String::new()]);
    }
    Section::Table {
        title: "Memory, planned and measured".to_owned(),
        columns: ["component", "planned", "measured", "difference in bytes"].map(str::to_owned).to_vec(),
        rows,
    }
}
