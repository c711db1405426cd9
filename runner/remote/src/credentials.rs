//! Whether credentials can be had at all, found out before the client waits for machines that are not there.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::location::Scheme;

/// The link-local address at which all three clouds give their own machines credentials.
const METADATA: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 169, 254)), 80);
const PATIENCE: Duration = Duration::from_secs(1);

/// The address of a server to use in place of Google's, without credentials, as Google's own clients read it.
pub(crate) const EMULATOR: &str = "STORAGE_EMULATOR_HOST";

/// The variables of which one is enough, as the services' own tools name them.
pub(crate) fn variables(scheme: Scheme) -> &'static [&'static str] {
    match scheme {
        Scheme::S3 => &[
            "AWS_ACCESS_KEY_ID",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_METADATA_ENDPOINT",
            "AWS_SKIP_SIGNATURE",
        ],
        Scheme::Gcs => &[
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GOOGLE_SERVICE_ACCOUNT",
            "GOOGLE_SERVICE_ACCOUNT_PATH",
            "GOOGLE_SERVICE_ACCOUNT_KEY",
            "GOOGLE_BEARER_TOKEN",
            "GOOGLE_SKIP_SIGNATURE",
            EMULATOR,
        ],
        Scheme::Azure => &[
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_ACCESS_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_STORAGE_SAS_KEY",
            "AZURE_STORAGE_TOKEN",
            "AZURE_STORAGE_CLIENT_ID",
            "AZURE_CLIENT_ID",
            "AZURE_FEDERATED_TOKEN_FILE",
            "AZURE_USE_AZURE_CLI",
            "AZURE_STORAGE_USE_EMULATOR",
            "AZURE_SKIP_SIGNATURE",
        ],
        Scheme::File => &[],
    }
}

/// Says what was looked for where there is nothing to be had.
pub(crate) fn missing(scheme: Scheme) -> Option<String> {
    let names = variables(scheme);
    let set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if names.is_empty() || names.iter().any(set) || (scheme == Scheme::Gcs && logged_in()) {
        return None;
    }
    if TcpStream::connect_timeout(&METADATA, PATIENCE).is_ok() {
        return None;
    }
    Some(format!("none of {} is set, and this machine has no role in a cloud", luthier_core::quoted(names)))
}

/// What `gcloud auth application-default login` leaves.
fn logged_in() -> bool {
    let home = std::env::var("HOME").unwrap_or_default();
    std::path::Path::new(&home).join(".config/gcloud/application_default_credentials.json").is_file()
}
