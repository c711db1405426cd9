//! Arguments of what shares results.

use camino::Utf8PathBuf;
use clap::Args;

/// Where results are shared.
#[derive(Debug, Clone, Args)]
pub struct RemoteArgs {
    /// Where results are shared: `s3://bucket/prefix`, `gs://…`, `az://…`, a directory, or `none`; overrides the
    /// pipeline's `remote:`.
    #[arg(long, value_name = "URL", env = "LUTHIER_REMOTE")]
    pub remote: Option<String>,
}

#[derive(Debug, Args)]
pub struct PushArgs {
    /// Stages whose results to send, all if left out; and the pipeline file where there are several.
    #[arg(value_name = "[PIPELINE] STAGE")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Send also what the remote has, to replace what is damaged there.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct PullArgs {
    /// Stages whose results to bring, all if left out; and the pipeline file where there are several.
    #[arg(value_name = "[PIPELINE] STAGE")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub struct ImportLockArgs {
    /// The pipeline file; may be left out where there is only one.
    #[arg(value_name = "PIPELINE")]
    pub pipeline: Option<Utf8PathBuf>,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub struct RemoteCheckArgs {
    /// The pipeline file; may be left out where there is only one.
    #[arg(value_name = "PIPELINE")]
    pub pipeline: Option<Utf8PathBuf>,
    #[command(flatten)]
    pub remote: RemoteArgs,
}
