//! One member out of a wheel, zip, tar or tar.gz, streamed.

use std::io::{BufReader, Read, Write};

use camino::Utf8Path;
use luthier_core::{StageContext, StageError, StageResult, nearest, quoted};

use super::tar::TarReader;

/// Writes the member `name` of `archive` to `to`.
///
/// # Errors
/// The archive is damaged or of an unknown kind, or has no such member; suggests the nearest.
pub fn extract(context: &StageContext<'_>, archive: &Utf8Path, name: &str, to: &Utf8Path) -> StageResult<()> {
    let file_name = archive.file_name().unwrap_or_default();
    if [".whl", ".zip"].iter().any(|end| file_name.ends_with(end)) {
        return extract_zip(context, archive, name, to);
    }
    let file = BufReader::new(fs_err::File::open(archive)?);
    if [".tar.gz", ".tgz"].iter().any(|end| file_name.ends_with(end)) {
        return extract_tar(context, archive, flate2::read::MultiGzDecoder::new(file), name, to);
    }
    if file_name.ends_with(".tar") {
        return extract_tar(context, archive, file, name, to);
    }
    Err(StageError::input("fetch::archive_kind", format!("`{file_name}` is not a .whl, .zip, .tar.gz, .tgz or .tar")))
}

fn extract_zip(context: &StageContext<'_>, archive: &Utf8Path, name: &str, to: &Utf8Path) -> StageResult<()> {
    let mut zip =
        zip::ZipArchive::new(BufReader::new(fs_err::File::open(archive)?)).map_err(|error| damaged(archive, error))?;
    let mut found = None;
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index).map_err(|error| damaged(archive, error))?;
        if String::from_utf8_lossy(entry.name_raw()) == name {
            found = Some(index);
        }
    }
    let Some(index) = found else {
        let names: Vec<String> = zip.file_names_raw().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        return Err(no_member(archive, name, &names));
    };
    let mut entry = zip.by_index(index).map_err(|error| damaged(archive, error))?;
    let size = entry.size();
    copy(context, archive, &mut entry, size, to)
}

fn extract_tar(
    context: &StageContext<'_>,
    archive: &Utf8Path,
    reader: impl Read,
    name: &str,
    to: &Utf8Path,
) -> StageResult<()> {
    let mut tar = TarReader::new(reader);
    let mut names = Vec::new();
    while let Some((entry, size)) = tar.next_file().map_err(|error| damaged(archive, error))? {
        // npm puts everything below `package/`; a member may be named with or without it.
        if entry == name || entry.strip_prefix("package/") == Some(name) {
            return copy(context, archive, &mut tar, size, to);
        }
        names.push(entry);
    }
    Err(no_member(archive, name, &names))
}

fn copy(
    context: &StageContext<'_>,
    archive: &Utf8Path,
    from: &mut impl Read,
    size: u64,
    to: &Utf8Path,
) -> StageResult<()> {
    let mut out = fs_err::File::create(to)?;
    let mut buffer = vec![0u8; 1 << 20];
    let (mut done, mut reported) = (0u64, 0u64);
    loop {
        let count = from.read(&mut buffer).map_err(|error| damaged(archive, error))?;
        if count == 0 {
            break;
        }
        out.write_all(&buffer[..count])?;
        done += count as u64;
        if done - reported > 64 << 20 {
            reported = done;
            context.check_cancelled()?;
            context.progress(done, size, "bytes", "unpacking");
        }
    }
    if done != size {
        return Err(damaged(archive, format!("its member ends after {done} of {size} bytes")));
    }
    Ok(())
}

fn damaged(archive: &Utf8Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StageError {
    let name = archive.file_name().unwrap_or_default();
    StageError::new("fetch::bad_archive", format!("the archive `{name}` cannot be read"))
        .hint("the download may be damaged: run again, and clear the package client's cache if it stays so")
        .caused_by(error)
}

fn no_member(archive: &Utf8Path, name: &str, names: &[String]) -> StageError {
    let files: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.ends_with('/')).collect();
    let archive = archive.file_name().unwrap_or_default();
    let error = StageError::input("fetch::no_member", format!("the archive `{archive}` has no member `{name}`"));
    let base = name.rsplit('/').next().unwrap_or(name);
    let same_base = files.iter().find(|file| file.rsplit('/').next() == Some(base)).copied();
    match same_base.or_else(|| nearest(name, files.iter().copied())) {
        Some(near) => error.hint(format!("did you mean `#{near}`?")),
        None => error.hint(format!("its {} members begin with [{}]", files.len(), quoted(files.iter().take(8)))),
    }
}
