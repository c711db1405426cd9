//! The plan beside what was measured.

use luthier_core::Section;
use luthier_model::device::{Component, Ledger};
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
    let mut rows: Vec<Vec<String>> = Component::ALL
        .into_iter()
        .filter(|component| plan.bytes(*component) > 0 || ledger.peak(*component) > 0)
        .map(|component| {
            let (planned, measured) = (plan.bytes(component), ledger.peak(component));
            vec![
                component.to_string(),
                bytes_text(planned),
                bytes_text(measured),
                (measured as i64 - planned as i64).to_string(),
            ]
        })
        .collect();
    let (planned, measured) = (plan.total(), ledger.total_peak());
    rows.push(vec![
        "engine, total".to_owned(),
        bytes_text(planned),
        bytes_text(measured),
        (measured as i64 - planned as i64).to_string(),
    ]);
    if plan.host > 0 || ledger.host_peak() > 0 {
        let (planned, measured) = (plan.host, ledger.host_peak());
        rows.push(vec![
            "page-locked host memory, not in the total".to_owned(),
            bytes_text(planned),
            bytes_text(measured),
            (measured as i64 - planned as i64).to_string(),
        ]);
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
