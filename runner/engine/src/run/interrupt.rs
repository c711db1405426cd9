//! Ctrl-C: the first asks stages to checkpoint and stop, the second ends the program.

use luthier_core::CancelToken;

use crate::error::EngineError;

/// Watches for Ctrl-C and termination for the rest of the program; call it once. The first cancels `cancel`, the second
/// exits with status 130; child processes end with this one.
///
/// # Errors
/// The system refuses to deliver signals.
pub fn interrupt_on_ctrl_c(cancel: &CancelToken) -> Result<(), EngineError> {
    let cancel = cancel.clone();
    let fail = |source| EngineError::System { what: "signals cannot be watched".to_owned(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    if !next().await {
                        return;
                    }
                    if cancel.is_cancelled() {
                        std::process::exit(130);
                    }
                    cancel.cancel();
                }
            });
        })
        .map_err(fail)?;
    Ok(())
}

#[cfg(unix)]
async fn next() -> bool {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return false;
    };
    tokio::select! {
        signal = interrupt.recv() => signal.is_some(),
        signal = terminate.recv() => signal.is_some(),
    }
}

#[cfg(not(unix))]
async fn next() -> bool {
    tokio::signal::ctrl_c().await.is_ok()
}
