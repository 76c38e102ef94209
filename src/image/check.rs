//! Looking for damage. A check reads and never repairs: nothing in this format needs repair to be read.

use super::Image;
use crate::error::Result;
use crate::format::{BITS_PER_SECTOR, State};
use crate::limits::SECTOR_SIZE;
use crate::sync::read;
use crate::violation::Violation;

/// Findings past this many are counted and not kept.
const MAX_FINDINGS: usize = 64;

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// File offset.
    pub at: u64,
    /// The rule.
    pub violation: Violation,
    /// What it means for the disk.
    pub text: String,
}

/// What a check saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The first findings; empty in a sound image.
    pub findings: Vec<Finding>,
    /// How many findings there are in all.
    pub corruptions: u64,
    /// Blocks that the image holds itself.
    pub present_blocks: u64,
    /// Blocks of the disk.
    pub total_blocks: u64,
    /// The last session was not closed: a crash, which is no damage.
    pub unclean: bool,
}

impl Image {
    /// Reads all metadata and reports what breaks a rule. The header was judged at open.
    ///
    /// # Errors
    /// Only what keeps it from reading (`Io`); damage is in the report.
    pub fn check(&self) -> Result<CheckReport> {
        let header = self.header();
        let layout = read(&self.layout);
        let unit = if layout.allocation.is_some() { layout.granule } else { crate::limits::PAGE_SIZE };
        let total = layout.size.div_ceil(unit);
        let mut report =
            CheckReport { total_blocks: total, unclean: header.state != State::Closed, ..CheckReport::default() };
        let Some(allocation) = &layout.allocation else {
            report.present_blocks = total;
            return Ok(report);
        };
        let mut at = 0;
        while at < total {
            match allocation.run(at, total) {
                Ok(run) => {
                    report.present_blocks += if run.present { run.end - at } else { 0 };
                    at = run.end;
                }
                Err(error) if error.violation() == Some(Violation::SealedSector) => {
                    let end = (at / BITS_PER_SECTOR + 1).saturating_mul(BITS_PER_SECTOR).min(total);
                    let text =
                        format!("bytes {} to {} of the disk cannot be read", at * unit, (end * unit).min(layout.size));
                    let place = allocation.section().offset + at / BITS_PER_SECTOR * SECTOR_SIZE;
                    report.add(Finding { at: place, violation: Violation::SealedSector, text });
                    at = end;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }
}

impl CheckReport {
    fn add(&mut self, finding: Finding) {
        self.corruptions += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }
}
