//! What the processes of a shop share besides locks: plain files, which nothing protects.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;

/// What a shop would have in a database. Each write is whole or not there at all.
pub(crate) struct Files {
    directory: PathBuf,
    is_temporary: bool,
    stock: u64,
}

impl Files {
    pub(crate) fn open(stock: u64) -> io::Result<Self> {
        let given = std::env::var_os("LOCK_SHOP_DIR").map(PathBuf::from);
        let is_temporary = given.is_none();
        let temporary =
            || std::env::temp_dir().join(format!("fencelock-shop-{}", std::process::id()));
        let directory = given.unwrap_or_else(temporary);
        fs::create_dir_all(&directory)?;
        Ok(Self {
            directory,
            is_temporary,
            stock,
        })
    }

    pub(crate) fn stock(&self, product: &str) -> io::Result<u64> {
        match fs::read_to_string(self.directory.join(format!("stock-{product}"))) {
            Ok(text) => text.trim().parse().map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(self.stock),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn set_stock(&self, product: &str, left: u64) -> io::Result<()> {
        let new = self
            .directory
            .join(format!("new-{product}-{}", std::process::id()));
        fs::write(&new, format!("{left}\n"))?;
        fs::rename(new, self.directory.join(format!("stock-{product}")))
    }

    pub(crate) fn lines(&self, log: &str) -> io::Result<Vec<String>> {
        match fs::read_to_string(self.directory.join(log)) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn append(&self, log: &str, line: &str) -> io::Result<()> {
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join(log))?;
        log.write_all(format!("{line}\n").as_bytes())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.is_temporary {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}
