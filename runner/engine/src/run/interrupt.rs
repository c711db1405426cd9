//! Ctrl-C: the first asks stages to checkpoint and stop, the second ends the program.

use luthier_core::CancelToken;

use crate::error::EngineError;

/// Watches for Ctrl-C and termination for the rest of the program; call it once. The first cancels `cancel`, the second
/// ends all stages, in whatever process, and exits with status 130.
///
/// # Errors
/// The system refuses to deliver signals.
pub fn interrupt_on_ctrl_c(cancel: &CancelToken) -> Result<(), EngineError> {
    let cancel = cancel.clone();
    let fail = |source| EngineError::System { what: "signals cannot be watched".to_owned(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
    // Made here, so that no signal falls between two waits, nor before the first.
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new().map_err(fail)?
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                while signals.next().await {
                    if cancel.is_cancelled() {
                        super::processes::end_all();
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
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// False if there will be none.
    async fn next(&mut self) -> bool {
        tokio::select! {
            signal = self.interrupt.recv() => signal.is_some(),
            signal = self.terminate.recv() => signal.is_some(),
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> bool {
        tokio::signal::ctrl_c().await.is_ok()
    }
}
