//! Exit codes, as the design fixes them.

use std::process::ExitCode;

use luthier_core::ErrorClass;

/// Success.
pub const DONE: u8 = 0;

/// The documented exit code of an error class.
#[must_use]
pub const fn code(class: ErrorClass) -> u8 {
    match class {
        ErrorClass::Stage => 1,
        ErrorClass::Input => 2,
        ErrorClass::Expectation => 3,
        ErrorClass::Store => 4,
        ErrorClass::Interrupted => 130,
    }
}

#[must_use]
pub fn exit(class: ErrorClass) -> ExitCode {
    ExitCode::from(code(class))
}
