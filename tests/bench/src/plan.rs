//! What a memory plan must hold on every configuration that is measured.

/// Components whose bytes are known before a run.
const EXACT: [&str; 5] = ["weights", "embeddings", "adapters", "gradients", "optimizer"];

/// Compares the plan with what was allocated: to the byte for [`EXACT`], within a twentieth in total.
///
/// # Errors
/// What does not hold.
pub fn hold<'a>(
    parts: impl IntoIterator<Item = (&'a str, usize, usize)>,
    planned: usize,
    measured: usize,
) -> Result<(), String> {
    for (component, planned, measured) in parts {
        if EXACT.contains(&component) && planned != measured {
            return Err(format!("the plan says {planned} bytes of {component}, {measured} were allocated"));
        }
    }
    if planned.abs_diff(measured) * 20 > measured {
        return Err(format!("the plan says {planned} bytes in total, {measured} were allocated"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::hold;

    #[test]
    fn what_is_known_is_exact_and_the_total_within_a_twentieth() {
        assert_eq!(hold([("weights", 10, 10), ("scratch", 5, 1)], 104, 100), Ok(()));
        assert!(hold([("adapters", 10, 11)], 100, 100).is_err());
        assert!(hold([("scratch", 5, 1)], 106, 100).is_err());
        assert!(hold([("scratch", 5, 1)], 94, 100).is_err());
    }
}
