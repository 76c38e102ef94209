//! Pages of a file that does not change, in memory.

use crate::error::Result;
use crate::limits::PAGE_SIZE;
use crate::storage::Storage;
use crate::sync::{Arc, Mutex, lock};
use std::collections::HashMap;

/// Bytes of a file from a multiple of [`PAGE_SIZE`] on.
pub(super) type Page = [u8; PAGE_SIZE as usize];

/// Pages by their offset in the file. Tables are read in pages, however long they are.
#[derive(Debug)]
pub(super) struct Pages {
    /// Pages of one generation at most.
    most: usize,
    generations: Mutex<Generations>,
}

/// What was asked for lately, and before. A full `young` becomes `old`, whose pages then go unless they are asked for.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u64, Arc<Page>>,
    old: HashMap<u64, Arc<Page>>,
}

impl Pages {
    /// About `bytes` of pages at most.
    pub(super) fn new(bytes: u64) -> Pages {
        let most = usize::try_from(bytes / PAGE_SIZE / 2).unwrap_or(usize::MAX).max(1);
        Pages { most, generations: Mutex::default() }
    }

    /// The page at `offset` of `file`, from memory or the file.
    pub(super) fn get(&self, file: &dyn Storage, offset: u64) -> Result<Arc<Page>> {
        let mut generations = lock(&self.generations);
        if let Some(page) = generations.young.get(&offset) {
            return Ok(page.clone());
        }
        let known = generations.old.remove(&offset);
        drop(generations);
        let page = match known {
            Some(page) => page,
            // Outside the lock: that two read the same page does no harm.
            None => {
                let mut page = [0; PAGE_SIZE as usize];
                file.read_at(&mut page, offset)?;
                Arc::new(page)
            }
        };
        let mut generations = lock(&self.generations);
        if generations.young.len() >= self.most {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(offset, page.clone());
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn pages_stay_few_and_right() {
        let bytes: Vec<u8> = (0..64u64).flat_map(|number| [number as u8; PAGE_SIZE as usize]).collect();
        let file = MemoryStorage::with_bytes("tables", &bytes);
        let pages = Pages::new(8 * PAGE_SIZE);
        for round in 0..1000u64 {
            let number = round * round % 64;
            assert_eq!(*pages.get(&file, number * PAGE_SIZE).unwrap(), [number as u8; PAGE_SIZE as usize]);
            let generations = lock(&pages.generations);
            assert!(generations.young.len() + generations.old.len() <= 8);
        }
    }
}
