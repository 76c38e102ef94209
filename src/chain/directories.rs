//! Parents by their hints, within directories that the caller allows.

use crate::chain::ParentPolicy;
use crate::chain::policy::plain;
use crate::error::{Error, Result};
use crate::format::Parent;
use crate::storage::{FileOptions, Storage, open_beneath};
use crate::sync::Arc;
use std::path::PathBuf;

/// Parents that lie in directories the caller names, found by their hints.
///
/// A hint is taken relative to the directory of the file that carries it. What it leads to must lie beneath one of
/// the directories, also after every symbolic link on the way was followed.
#[derive(Debug, Clone)]
pub struct ParentsInDirectories {
    working: PathBuf,
    allowed: Vec<PathBuf>,
    direct: bool,
}

impl ParentsInDirectories {
    /// Allows what lies beneath `allowed`. Relative paths, those of the images too, start at `working`.
    pub fn new(
        working: impl Into<PathBuf>,
        allowed: impl IntoIterator<Item = impl Into<PathBuf>>,
    ) -> ParentsInDirectories {
        let working = working.into();
        let allowed = allowed.into_iter().map(|directory| plain(&working.join(directory.into()))).collect();
        ParentsInDirectories { working, allowed, direct: false }
    }

    /// Opens parents past the host's page cache (cache mode `none`).
    pub fn direct(self, direct: bool) -> ParentsInDirectories {
        ParentsInDirectories { direct, ..self }
    }

    /// The path that `hint` of the file `child` leads to.
    fn resolve(&self, hint: &str, child: &str) -> PathBuf {
        let child = self.working.join(child);
        let directory = child.parent().unwrap_or(&self.working);
        plain(&directory.join(hint))
    }
}

impl ParentPolicy for ParentsInDirectories {
    fn open(&self, link: &Parent, child: &str, write: bool) -> Result<Arc<dyn Storage>> {
        if link.hint.is_empty() {
            return Err(Error::Denied(format!("{child}: it does not say where its parent lies")));
        }
        let path = self.resolve(&link.hint, child);
        let options = FileOptions { write, direct: self.direct, ..FileOptions::default() };
        for directory in &self.allowed {
            if let Ok(relative) = path.strip_prefix(directory) {
                return Ok(Arc::new(open_beneath(directory, relative, &options)?));
            }
        }
        Err(Error::Denied(format!("{child}: its parent {} lies in no directory that is allowed", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_hint_starts_at_its_own_file() {
        let policy = ParentsInDirectories::new("/work", ["images"]);
        assert_eq!(policy.resolve("base.lvd", "images/x/top.lvd"), Path::new("/work/images/x/base.lvd"));
        assert_eq!(policy.resolve("../base.lvd", "/srv/x/top.lvd"), Path::new("/srv/base.lvd"));
        assert_eq!(policy.allowed, [PathBuf::from("/work/images")]);
    }
}
