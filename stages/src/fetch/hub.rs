//! `hf://`: one file of a model repository, or the files of it that a model needs.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{ErrorClass, StageContext, StageError, StageResult};
use serde::Deserialize;

use super::source::Hub;
use super::web;

/// The most files of a repository, and the most bytes of a listing, that are looked at.
const MAX_FILES: usize = 4096;
const MAX_LISTING: u64 = 64 << 20;

/// Where the hub is, and who asks.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Without a trailing slash.
    pub address: String,
    pub token: Option<String>,
}

impl Endpoint {
    /// `HF_ENDPOINT` and `HF_TOKEN`, or the token that the hub's own client saved.
    pub fn from_environment() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let address = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let token_file = set("HF_TOKEN_PATH")
            .or_else(|| set("HF_HOME").map(|home| format!("{home}/token")))
            .or_else(|| set("HOME").map(|home| format!("{home}/.cache/huggingface/token")));
        let saved = || token_file.and_then(|path| fs_err::read_to_string(path).ok()).map(|text| text.trim().to_owned());
        let token = set("HF_TOKEN").or_else(saved).filter(|token| !token.is_empty());
        Self { address: address.trim_end_matches('/').to_owned(), token }
    }

    fn headers(&self) -> Vec<(String, String)> {
        self.token.iter().map(|token| ("authorization".to_owned(), format!("Bearer {token}"))).collect()
    }
}

#[derive(Deserialize)]
struct Listing {
    /// The commit that the revision names.
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Downloads the file, or the repository into a directory.
///
/// # Errors
/// Unreachable, no access, no such revision or file, or a repository without safetensors.
pub fn fetch(context: &StageContext<'_>, hub: &Hub, work: &Utf8Path, endpoint: &Endpoint) -> StageResult<Utf8PathBuf> {
    let file_url = |revision: &str, path: &str| {
        let path: Vec<String> = path.split('/').map(percent_encode).collect();
        format!("{}/{}/resolve/{revision}/{}", endpoint.address, hub.repository, path.join("/"))
    };
    if let Some(path) = &hub.path {
        return web::fetch(context, &file_url(&hub.revision, path), &endpoint.headers());
    }
    let listing = list(hub, endpoint)?;
    let names: Vec<&str> = listing.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
    let needed: Vec<&str> = names.iter().copied().filter(|name| is_needed(name)).collect();
    if !needed.contains(&"config.json") || !needed.iter().any(|name| name.ends_with(".safetensors")) {
        return Err(no_model(hub, &names));
    }
    let directory = work.join("repository");
    fs_err::create_dir_all(&directory)?;
    for (index, name) in needed.iter().enumerate() {
        context.progress(index as u64, needed.len() as u64, "files", *name);
        let file = web::fetch(context, &file_url(&listing.sha, name), &endpoint.headers())?;
        fs_err::rename(file, directory.join(name))?;
    }
    Ok(directory)
}

fn list(hub: &Hub, endpoint: &Endpoint) -> StageResult<Listing> {
    let url = format!("{}/api/models/{}/revision/{}", endpoint.address, hub.repository, hub.revision);
    let mut request = web::agent().get(&url);
    for (name, value) in endpoint.headers() {
        request = request.header(name, value);
    }
    let mut response = request.call().map_err(|error| web::transfer_error(&url, error))?;
    let status = response.status().as_u16();
    if !(200..300).contains(&status) {
        return Err(web::status_error(&url, status));
    }
    let bytes = response
        .body_mut()
        .with_config()
        .limit(MAX_LISTING)
        .read_to_vec()
        .map_err(|error| web::transfer_error(&url, error))?;
    let listing: Listing = serde_json::from_slice(&bytes).map_err(|error| {
        StageError::new("fetch::hub_listing", format!("`{url}` did not answer with the listing of a repository"))
            .hint("check HF_ENDPOINT")
            .caused_by(error)
    })?;
    let plain_revision = listing.sha.chars().all(|c| c.is_ascii_alphanumeric());
    if listing.siblings.len() > MAX_FILES || !plain_revision {
        return Err(StageError::new("fetch::hub_listing", format!("`{url}` lists more files than a model has")));
    }
    Ok(listing)
}

/// The files at the top of a repository that make a model: configuration, tokenizer, template, safetensors.
fn is_needed(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
    ];
    let plain = !name.contains(['/', '\\']) && !name.starts_with('.');
    let weights = name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
    plain && (NAMES.contains(&name) || name.starts_with("tokenizer") || (weights && !name.starts_with("consolidated")))
}

fn no_model(hub: &Hub, names: &[&str]) -> StageError {
    let error = StageError::new(
        "fetch::no_model",
        format!("`hf://{}@{}` has no config.json with *.safetensors", hub.repository, hub.revision),
    )
    .class(ErrorClass::Input);
    match names.iter().find(|name| name.to_ascii_lowercase().ends_with(".gguf")) {
        Some(gguf) => error.hint(format!("name one file: `hf://{}@{}/{gguf}`", hub.repository, hub.revision)),
        None => {
            error.hint("convert its weights to safetensors first; pickled weights are not read, since they run code")
        }
    }
}

fn percent_encode(part: &str) -> String {
    let mut out = String::new();
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
