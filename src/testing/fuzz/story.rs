//! What an input describes: a chain, and what happens to it.

use super::scene::Scene;
use super::span::{Granule, Size, Span};
use arbitrary::{Arbitrary, Result, Unstructured};

/// Longer stories tell nothing new, and take long.
const MOST_OPERATIONS: usize = 48;

/// A chain and its life.
#[derive(Debug)]
pub struct Story {
    /// The lowest layer is a raw file.
    raw: bool,
    /// The layers, the lowest first.
    layers: Vec<Shape>,
    /// The top is a raw volume with a sidecar. (What lies on nothing needs none.)
    sidecar: bool,
    operations: Vec<Operation>,
}

/// A layer.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub struct Shape {
    /// Its size.
    pub size: Size,
    /// Its blocks.
    pub granule: Granule,
    /// An allocation section even where there is no parent.
    pub allocation: bool,
    /// Less of its parent may be seen than there is.
    pub visible: Option<Size>,
    /// What is written to it before the story begins.
    pub written: [Span; 2],
}

/// What happens.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Operation {
    /// The commonest request.
    Write(Span),
    /// Another one.
    Guest(Guest),
    /// The layers change, or a job begins that will change them.
    Change(Change),
    /// The job goes on.
    Step {
        /// Times.
        steps: u8,
        /// Pages a step.
        pages: u8,
    },
}

/// What a guest does, and what is done for it without its notice.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Guest {
    /// A read.
    Read(Span),
    /// A write of zeros, as data.
    WriteZeros(Span),
    /// A zeroing, with or without giving space back.
    Zero(Span, bool),
    /// A discard.
    Discard(Span),
    /// A read, a write and a zeroing at once.
    Batch([Span; 3]),
    /// Requests that lie outside of the disk.
    Outside(Span),
    /// A flush.
    Flush,
    /// All is durable and has a name.
    Seal,
    /// Copy-on-read.
    Fill(Span),
    /// Data of a process that was killed: the bits never came.
    Garbage(Span),
    /// The disk is opened anew, after a close or (flushed) without.
    Reopen(bool),
}

/// What changes the layers.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Change {
    /// Another size.
    Resize(Size),
    /// A new overlay on top.
    Snapshot(Shape),
    /// Stream down to the layer of this number, or all of it.
    Stream(u8),
    /// Merge.
    Merge {
        /// From this layer.
        top: u8,
        /// Into this one.
        base: u8,
        /// The upper layer holds nothing afterwards.
        empty: bool,
    },
    /// Copy the disk.
    Mirror {
        /// What the copy is.
        target: Shape,
        /// It is a raw file.
        raw: bool,
        /// The target holds something before.
        used: bool,
        /// The disk is the copy from then on.
        pivot: bool,
    },
    /// Copy the top alone.
    MirrorTop {
        /// Blocks of the copy.
        granule: Granule,
        /// The disk is the copy from then on.
        pivot: bool,
    },
    /// Lie on the layer of this number.
    RebaseDeeper(u8),
    /// Lie on a new layer.
    Rebase {
        /// What it is.
        parent: Shape,
        /// It is a raw file.
        raw: bool,
        /// Where it holds the same as the disk.
        same: Span,
    },
}

impl Arbitrary<'_> for Story {
    /// Operations to the input's end: bytes that are put in, taken out or copied are operations that are.
    fn arbitrary(input: &mut Unstructured<'_>) -> Result<Story> {
        let (raw, sidecar) = (input.arbitrary()?, input.ratio(1, 4)?);
        let depth = input.int_in_range(1..=3)?;
        let layers = (0..depth).map(|_| input.arbitrary()).collect::<Result<_>>()?;
        let mut operations = Vec::new();
        while !input.is_empty() && operations.len() < MOST_OPERATIONS {
            operations.push(input.arbitrary()?);
        }
        Ok(Story { raw, layers, sidecar, operations })
    }
}

impl Story {
    /// The story that some bytes describe: every input describes one, if it is not too short.
    pub fn of(input: &[u8]) -> Option<Story> {
        Story::arbitrary_take_rest(Unstructured::new(input)).ok()
    }

    /// Lets it happen.
    ///
    /// # Panics
    /// If a read, an extent, a header or a check is not what it should be, or an operation fails that should not.
    pub fn tell(&self) {
        let mut scene = Scene::default();
        for (number, shape) in self.layers.iter().enumerate() {
            let top = number + 1 == self.layers.len();
            match number {
                0 if self.raw && !top => scene.add_raw(shape),
                1.. if self.sidecar && top => scene.add_sidecar(shape),
                _ => scene.add_image(shape),
            }
        }
        scene.verify_all();
        for operation in &self.operations {
            match *operation {
                Operation::Write(span) => scene.write(span),
                Operation::Guest(guest) => scene.guest(guest),
                Operation::Change(change) => scene.change(change),
                Operation::Step { steps, pages } => scene.step(steps, pages),
            }
            scene.verify();
        }
        scene.end();
    }
}
