//! One stage that reads a directory of very many files, none of which changed.

use std::io;
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};

use super::Times;
use super::tool::Tool;

const YAML: &str = "\
luthier: 1
stages:
  count:
    uses: command
    with: {run: 'ls ${file.data} > ${out.file}', files: {data: data}, outputs: {file: file}}
";

pub fn measure(luthier: &Utf8Path, files: usize, repeat: usize) -> io::Result<Times> {
    let directory = tempfile::tempdir()?;
    let root = Utf8PathBuf::from_path_buf(directory.path().to_owned()).map_err(|_| io::Error::other("not UTF-8"))?;
    fs_err::write(root.join("luthier.yaml"), YAML)?;
    // Files of the last seconds are hashed again, as they might still be written.
    let written = SystemTime::now() - Duration::from_secs(60);
    for at in 0..files {
        let folder = root.join(format!("data/{}", at / 1000));
        if at % 1000 == 0 {
            fs_err::create_dir_all(&folder)?;
        }
        let file = fs_err::File::create(folder.join(format!("{at}.txt")))?;
        io::Write::write_all(&mut &file, at.to_string().as_bytes())?;
        file.file().set_modified(written)?;
    }
    let tool = Tool::Luthier(luthier.to_owned());
    tool.start(&root)?;
    (0..repeat).map(|_| tool.start(&root)).collect::<io::Result<Vec<_>>>().map(Times::of)
}
