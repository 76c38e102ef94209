//! Which files the parents of a chain may be: only the caller decides (`spec/chain.md`, law N).
//!
//! An image says *which content* it lies on, and keeps a hint. Nothing here opens a file because an image says so.

use crate::error::{Error, Result};
use crate::format::Parent;
use crate::storage::Storage;
use crate::sync::{Arc, Mutex, lock};
use crate::units::escaped;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::path::{Component, Path, PathBuf};

/// Turns the parent link of an image into a storage, or refuses to.
pub trait ParentPolicy: Debug {
    /// Opens what `link` of the file `child` speaks of; for writing too if `write`. Locks are the caller's business.
    ///
    /// # Errors
    /// [`Error::Denied`] if the policy has no file for it; what opening it meets.
    fn open(&self, link: &Parent, child: &str, write: bool) -> Result<Arc<dyn Storage>>;
}

/// No parent is opened: images that have one are refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoParents;

impl ParentPolicy for NoParents {
    fn open(&self, link: &Parent, child: &str, _write: bool) -> Result<Arc<dyn Storage>> {
        Err(Error::Denied(format!("{child}: its parent {:?} is not opened: no parents are allowed here", link.hint)))
    }
}

/// The parents the caller has opened, the nearest first, whatever the hints say.
#[derive(Debug, Default)]
pub struct GivenParents {
    rest: Mutex<VecDeque<Arc<dyn Storage>>>,
}

impl GivenParents {
    /// `parents` from the top's own parent down to the lowest layer. Whoever writes to them opens them for writing.
    pub fn new(parents: impl IntoIterator<Item = Arc<dyn Storage>>) -> GivenParents {
        GivenParents { rest: Mutex::new(parents.into_iter().collect()) }
    }
}

impl ParentPolicy for GivenParents {
    fn open(&self, link: &Parent, child: &str, _write: bool) -> Result<Arc<dyn Storage>> {
        let next = lock(&self.rest).pop_front();
        next.ok_or_else(|| Error::Denied(format!("{child}: its parent {:?} is not among those given", link.hint)))
    }
}

/// `path` without `.` and `..`, by its names alone. That a symbolic link may make `a/..` something else costs
/// nothing: the result is opened beneath an allowed directory or not at all.
pub(super) fn plain(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match result.components().next_back() {
                Some(Component::Normal(_)) => drop(result.pop()),
                Some(Component::RootDir | Component::Prefix(_)) => {}
                _ => result.push(component),
            },
            _ => result.push(component),
        }
    }
    result
}

/// The hint that leads from the child to its grandparent: `first` leads to the parent, `second` on from there. A URI
/// leads to the same place from everywhere; from there a path leads to what the same server calls by it, and to no file:
/// those of the machine that reads the hint are not meant.
pub fn joined_hint(first: &str, second: &str) -> String {
    if second.contains("://") {
        return second.to_string();
    }
    if let Some(scheme) = first.find("://") {
        return on_the_same_server(first, scheme + 3, second);
    }
    let directory = Path::new(first).parent().unwrap_or(Path::new(""));
    match plain(&directory.join(second)).to_str() {
        Some(hint) => hint.to_string(),
        None => second.to_string(),
    }
}

/// Where `path` leads from a URI, whose host begins at `host`.
fn on_the_same_server(uri: &str, host: usize, path: &str) -> String {
    let (address, parameters) = uri.split_at(uri.find('?').unwrap_or(uri.len()));
    let root = address[host..].find('/').map_or(address.len(), |at| host + at);
    let directory = if path.starts_with('/') { root } else { address.rfind('/').map_or(root, |at| at.max(root)) };
    format!("{}/{}{parameters}", &address[..directory], escaped(path, "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_join_by_directory() {
        assert_eq!(joined_hint("mid.lvd", "base.lvd"), "base.lvd");
        assert_eq!(joined_hint("../mid.lvd", "nbd://host/base"), "nbd://host/base");
        assert_eq!(joined_hint("../b/mid.lvd", "base.lvd"), "../b/base.lvd");
        assert_eq!(joined_hint("b/mid.lvd", "../base.lvd"), "base.lvd");
        assert_eq!(joined_hint("../b/mid.lvd", "../../base.lvd"), "../../base.lvd");
        assert_eq!(joined_hint("b/mid.lvd", "/base.lvd"), "/base.lvd");
        assert_eq!(joined_hint("", "base.lvd"), "base.lvd");
    }

    #[test]
    fn paths_on_a_server_stay_there() {
        assert_eq!(joined_hint("nbd://host/mid", "base"), "nbd://host/base");
        assert_eq!(joined_hint("nbd://host", "base"), "nbd://host/base");
        assert_eq!(joined_hint("nbd://host/a/mid", "../base?x"), "nbd://host/a/../base%3Fx");
        assert_eq!(joined_hint("nbd://host/a/mid", "/base"), "nbd://host//base");
        assert_eq!(joined_hint("nbd+unix:///mid?socket=/run/s", "a b"), "nbd+unix:///a%20b?socket=/run/s");
    }

    #[test]
    fn paths_are_made_plain() {
        assert_eq!(plain(Path::new("/a/./b/../c")), Path::new("/a/c"));
        assert_eq!(plain(Path::new("/../a")), Path::new("/a"));
        assert_eq!(plain(Path::new("../../a")), Path::new("../../a"));
    }
}
