//! Running a stage in this process so that a panic in it is a failure of the stage and of nothing else.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use luthier_core::{CancelToken, ErrorClass, EventSink, Stage, StageContext, StageOutcome, StageRequest};

use super::StageFailure;

thread_local! {
    /// While a stage runs on this thread: where it panicked.
    static PANICKED_AT: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Keeps the default hook from printing over the display for threads that run a stage.
fn install_hook() {
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let ours = PANICKED_AT.with_borrow_mut(|place| match place {
                Some(at) => {
                    *at = info.location().map(|location| format!("{}:{}", location.file(), location.line()));
                    true
                }
                None => false,
            });
            if !ours {
                previous(info);
            }
        }));
    });
}

fn text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// Runs the stage.
pub(crate) fn run(
    stage: &dyn Stage,
    request: StageRequest,
    sink: &dyn EventSink,
    cancel: CancelToken,
) -> Result<StageOutcome, StageFailure> {
    install_hook();
    PANICKED_AT.set(Some(None));
    let mut context = StageContext::new(request, sink, cancel);
    let result = catch_unwind(AssertUnwindSafe(|| stage.run(&mut context)));
    let place = PANICKED_AT.take().flatten();
    match result {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(error)) => Err((&error).into()),
        Err(payload) => {
            let mut failure = StageFailure::new(
                ErrorClass::Stage,
                "run::panic",
                format!("the stage panicked: {}", text(payload.as_ref())),
            )
            .hint("this is a defect of luthier; please report it with the pipeline file and this message");
            failure.causes.extend(place.map(|place| format!("at {place}")));
            Err(failure)
        }
    }
}
