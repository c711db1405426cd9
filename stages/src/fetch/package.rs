//! `pkg:` sources, through the package client that the user has configured: its mirrors, proxies and credentials apply.
//!
//! Only archives are downloaded. pip is held to wheels, since for a source archive it would run the package's build script,
//! and npm to packing without scripts.

use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{StageContext, StageError, StageResult};

use super::archive;
use super::process;
use super::source::{Manager, Package};

/// A way to call a package client, and the arguments by which it says that it is there.
#[derive(Debug, Clone)]
pub struct Tool {
    pub command: Vec<String>,
    pub environment: Vec<(String, String)>,
}

impl Tool {
    fn new(words: &[&str]) -> Self {
        Self { command: words.iter().map(|word| (*word).to_owned()).collect(), environment: Vec::new() }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).envs(self.environment.iter().cloned());
        command
    }

    fn name(&self) -> String {
        self.command.join(" ")
    }
}

/// The clients to try, in order.
pub fn tools(manager: Manager) -> Vec<Tool> {
    match manager {
        Manager::Pypi => vec![
            Tool::new(&["pip"]),
            Tool::new(&["pip3"]),
            Tool::new(&["python3", "-m", "pip"]),
            Tool::new(&["python", "-m", "pip"]),
            Tool::new(&["py", "-m", "pip"]),
            Tool::new(&["uv", "tool", "run", "pip"]),
        ],
        Manager::Npm => vec![Tool::new(&["npm"])],
    }
}

/// Downloads the package's archive and takes the member out of it; returns the path of the one or the other.
///
/// # Errors
/// No client, a client that fails (with its last words), a package without a wheel, or no such member.
pub fn fetch(
    context: &StageContext<'_>,
    package: &Package,
    work: &Utf8Path,
    tools: &[Tool],
) -> StageResult<Utf8PathBuf> {
    let tool = find_tool(context, package.manager, work, tools)?;
    let downloads = work.join("archive");
    fs_err::create_dir_all(&downloads)?;
    let mut command = tool.command();
    match package.manager {
        Manager::Pypi => command
            .args(["download", "--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"])
            .args(["--progress-bar", "off", "--quiet", "--dest", downloads.as_str(), "--"])
            .arg(format!("{}=={}", package.name, package.version)),
        Manager::Npm => command
            .args(["pack", "--ignore-scripts", "--silent", "--pack-destination", downloads.as_str(), "--"])
            .arg(format!("{}@{}", package.name, package.version)),
    };
    let what = format!("{} {}", package.name, package.version);
    context.log(format!("{} downloads {what}", tool.name()));
    let finished = process::run(context, &mut command, work, &format!("{} {what}", tool.name()))?;
    if !finished.status.success() {
        return Err(client_error(&tool, package, &finished));
    }
    let archive = the_one_file(&downloads)
        .map_err(|what| StageError::new("fetch::no_archive", format!("`{}` succeeded, but {what}", tool.name())))?;
    let Some(member) = &package.member else { return Ok(archive) };
    let member_file = work.join("member");
    archive::extract(context, &archive, member, &member_file)?;
    fs_err::remove_file(&archive)?;
    Ok(member_file)
}

fn find_tool(context: &StageContext<'_>, manager: Manager, work: &Utf8Path, tools: &[Tool]) -> StageResult<Tool> {
    for tool in tools {
        let mut probe = tool.command();
        probe.arg("--version");
        match process::run(context, &mut probe, work, &tool.name()) {
            Ok(finished) if finished.status.success() => return Ok(tool.clone()),
            Err(error) if error.class == luthier_core::ErrorClass::Interrupted => return Err(error),
            // Absent, or a launcher without the program behind it.
            Ok(_) | Err(_) => {}
        }
    }
    let tried: Vec<String> = tools.iter().map(|tool| format!("`{}`", tool.name())).collect();
    let (client, install) = match manager {
        Manager::Pypi => ("pip", "install Python with pip, or uv (`uv tool run pip` serves as well)"),
        Manager::Npm => ("npm", "install Node.js with npm"),
    };
    Err(StageError::new(
        "fetch::no_client",
        format!("`pkg:` sources need {client}, and none works here; tried [{}]", tried.join(", ")),
    )
    .hint(install)
    .hint("or add another source after it in `from:`: an `https://` address, or a local path to the unpacked file"))
}

fn client_error(tool: &Tool, package: &Package, finished: &process::Finished) -> StageError {
    let words = finished.last_words();
    let what = format!("{} {}", package.name, package.version);
    if words.contains("No space left on device") || words.contains("ENOSPC") {
        return StageError::from(std::io::Error::new(
            std::io::ErrorKind::StorageFull,
            format!("`{}` could not download {what}: {words}", tool.name()),
        ));
    }
    let error = StageError::new(
        "fetch::client_failed",
        format!("`{}` could not download {what} ({})", tool.name(), finished.status),
    );
    let error = if words.is_empty() { error } else { error.caused_by(words.clone()) };
    let missing = words.contains("No matching distribution") || words.contains("404") || words.contains("ETARGET");
    if missing {
        error.hint(match package.manager {
            Manager::Pypi => format!(
                "check name and version with `{} index versions {}`; only wheels are fetched, as a source archive would \
                 run its build script",
                tool.name(),
                package.name
            ),
            Manager::Npm => format!("check name and version with `npm view {} versions`", package.name),
        })
    } else {
        error.hint(format!(
            "check the network, and mirrors or proxies in the configuration of `{}`; or add another source to `from:`",
            tool.command[0]
        ))
    }
}

fn the_one_file(directory: &Utf8Path) -> Result<Utf8PathBuf, String> {
    let names = luthier_core::fs::walk_files(directory).map_err(|error| error.to_string())?;
    match names.as_slice() {
        [name] => Ok(directory.join(name)),
        [] => Err("left no archive".to_owned()),
        several => Err(format!("left {} files: {}", several.len(), several.join(", "))),
    }
}
