//! `https://`: resumed after an interruption, with the system's certificates and proxies.
//!
//! A download in flight lives in the stage's checkpoint directory, beside the validator (ETag or date) that the server gave
//! for it; it goes on only if the server confirms that the content is still the same.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use luthier_core::{Digest, ErrorClass, StageContext, StageError, StageResult};
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

const ATTEMPTS: u32 = 4;

/// The agent for all requests: proxies and certificates come from the environment and the system.
pub fn agent() -> Agent {
    let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build();
    Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)))
        .user_agent(concat!("luthier/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

/// Downloads `url` to a file in the checkpoint directory and returns its path.
///
/// # Errors
/// Unreachable after several attempts, or an answer other than success.
pub fn fetch(context: &StageContext<'_>, url: &str, headers: &[(String, String)]) -> StageResult<Utf8PathBuf> {
    let directory = context.checkpoint();
    fs_err::create_dir_all(&directory)?;
    let part = Part::new(directory.join(Digest::of(url.as_bytes()).short()));
    let agent = agent();
    let mut attempt = 1;
    loop {
        match part.advance(context, &agent, url, headers) {
            Ok(()) => return Ok(part.file),
            Err(error) if error.code != "fetch::interrupted_transfer" || attempt == ATTEMPTS => return Err(error),
            Err(error) => {
                context.log(format!("attempt {attempt}: {error}; trying again"));
                wait(context, Duration::from_millis(250 << attempt))?;
                attempt += 1;
            }
        }
    }
}

fn wait(context: &StageContext<'_>, time: Duration) -> StageResult<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        context.check_cancelled()?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

struct Part {
    file: Utf8PathBuf,
    validator: Utf8PathBuf,
}

impl Part {
    fn new(base: Utf8PathBuf) -> Self {
        Self { file: base.with_extension("part"), validator: base.with_extension("validator") }
    }

    fn advance(
        &self,
        context: &StageContext<'_>,
        agent: &Agent,
        url: &str,
        headers: &[(String, String)],
    ) -> StageResult<()> {
        let validator = if self.validator.exists() { fs_err::read_to_string(&self.validator)? } else { String::new() };
        let have = if validator.is_empty() || !self.file.exists() { 0 } else { fs_err::metadata(&self.file)?.len() };
        let mut request = agent.get(url).header("accept-encoding", "identity");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if have > 0 {
            request = request.header("range", format!("bytes={have}-")).header("if-range", &validator);
        }
        let response = request.call().map_err(|error| transfer_error(url, error))?;
        let status = response.status().as_u16();
        let resumed = status == 206 && range_start(response.headers()) == Some(have);
        if status == 416 && complete_length(response.headers()) == Some(have) {
            return Ok(());
        }
        if status == 416 || (status == 206 && !resumed) {
            fs_err::remove_file(&self.file)?;
            fs_err::remove_file(&self.validator)?;
            return Err(StageError::new("fetch::interrupted_transfer", format!("`{url}` refuses to resume")));
        }
        if !(200..300).contains(&status) {
            return Err(status_error(url, status));
        }
        let start = if resumed { have } else { 0 };
        fs_err::write(&self.validator, strong_validator(response.headers()))?;
        self.receive(context, url, response, start)
    }

    fn receive(&self, context: &StageContext<'_>, url: &str, response: Response<Body>, start: u64) -> StageResult<()> {
        let total = response.body().content_length().map(|length| start + length);
        let mut file = if start > 0 {
            fs_err::OpenOptions::new().append(true).open(&self.file)?
        } else {
            fs_err::File::create(&self.file)?
        };
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0u8; 256 << 10];
        let (mut done, mut reported) = (start, Instant::now());
        loop {
            context.check_cancelled()?;
            let count = body.read(&mut buffer).map_err(|error| transfer_error(url, error))?;
            if count == 0 {
                break;
            }
            file.write_all(&buffer[..count])?;
            done += count as u64;
            if reported.elapsed() > Duration::from_millis(500) {
                reported = Instant::now();
                context.progress(done, total.unwrap_or(0), "bytes", "");
            }
        }
        file.sync_all()?;
        match total {
            Some(total) if total != done => Err(transfer_error(url, format!("it ended after {done} of {total} bytes"))),
            _ => Ok(()),
        }
    }
}

fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// The length that a refused range is told: `bytes */LENGTH`.
fn complete_length(headers: &HeaderMap) -> Option<u64> {
    headers.get("content-range")?.to_str().ok()?.strip_prefix("bytes */")?.trim().parse().ok()
}

/// What `if-range` accepts: a strong ETag, or else the date.
fn strong_validator(headers: &HeaderMap) -> String {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let etag = text("etag").filter(|etag| !etag.starts_with("W/"));
    etag.or_else(|| text("last-modified")).unwrap_or_default()
}

pub fn transfer_error(url: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StageError {
    StageError::new("fetch::interrupted_transfer", format!("`{url}` could not be read to its end"))
        .hint("check the network and the proxy variables; a later run resumes. A private authority's certificate goes into SSL_CERT_FILE")
        .caused_by(error)
}

pub fn status_error(url: &str, status: u16) -> StageError {
    let error = StageError::new("fetch::http_status", format!("`{url}` answered {status}"));
    match status {
        401 | 403 => error.hint("the address needs credentials; for `hf://` set HF_TOKEN and accept the model's terms"),
        404 | 410 => {
            error.hint("nothing is there; check the address, or add another source to `from:`").class(ErrorClass::Input)
        }
        408 | 429 | 500..=599 => {
            error.hint("the server is busy or broken; try again later, or add another source to `from:`")
        }
        _ => error.hint("check the address"),
    }
}
