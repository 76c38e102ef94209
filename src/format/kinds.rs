//! The numbers of the format that have names.

use std::fmt;

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident: $repr:ident {
        $($(#[$variant_doc:meta])* $variant:ident = $number:literal $text:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),* }

        impl $name {
            /// Every one of them.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// The number in the file.
            pub fn number(self) -> $repr {
                match self { $($name::$variant => $number),* }
            }

            /// What a number in a file stands for, if it is known.
            pub fn from_number(number: $repr) -> Option<$name> {
                match number { $($number => Some($name::$variant),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $text),* })
            }
        }
    };
}

numbered! {
    /// What a file is.
    Kind: u16 {
        /// Guest data behind a header.
        Image = 1 "image",
        /// Sections for a file that has no room for them; no data of its own.
        Sidecar = 2 "sidecar",
        /// The decision of a group of disks, and nothing else.
        Group = 3 "group",
    }
}

numbered! {
    /// Where the disks of a group are.
    Decision: u32 {
        /// With the sources.
        Undecided = 0 "undecided",
        /// With the targets.
        Moved = 1 "moved",
    }
}

numbered! {
    /// What the last writer was doing when it last wrote a header.
    State: u16 {
        /// Nothing: the epoch names the content.
        Closed = 0 "closed",
        /// Filling absent blocks from below, which changes neither content nor epoch.
        Filling = 1 "filling",
        /// Changing the content: its epoch is open.
        Writing = 2 "writing",
    }
}

numbered! {
    /// The format of a parent. Stated in the file, because probing guest data is how guests escape.
    ParentFormat: u32 {
        /// LVD.
        Lvd = 1 "lvd",
        /// The bytes themselves.
        Raw = 2 "raw",
        /// QEMU's qcow2.
        Qcow2 = 3 "qcow2",
        /// QEMU's former QED.
        Qed = 4 "qed",
        /// VMware's VMDK.
        Vmdk = 5 "vmdk",
    }
}

numbered! {
    /// The format of the file that a sidecar serves.
    HostFormat: u32 {
        /// An LVD image, which has its own header.
        Lvd = 1 "lvd",
        /// The bytes themselves.
        Raw = 2 "raw",
    }
}

numbered! {
    /// What a dirty bitmap does.
    BitmapState: u16 {
        /// It tells of changes up to its epoch, and of no later ones.
        Disabled = 0 "disabled",
        /// Changes are marked in it.
        Recording = 1 "recording",
        /// A backup reads it; its successor records.
        Frozen = 2 "frozen",
    }
}

/// What the bits of a section say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SectionKind {
    /// This layer holds the block.
    Allocation,
    /// The guest changed the granule.
    Dirty,
    /// Dirty bits of this region may not be in the file yet.
    Intent,
    /// The granule differs from a copy target.
    Sync,
    /// Not known: kept, its space respected.
    Other(u16),
}

impl SectionKind {
    /// The number in the file.
    pub fn number(self) -> u16 {
        match self {
            SectionKind::Allocation => 1,
            SectionKind::Dirty => 2,
            SectionKind::Intent => 3,
            SectionKind::Sync => 4,
            SectionKind::Other(number) => number,
        }
    }

    /// What a number in a file stands for.
    pub fn from_number(number: u16) -> SectionKind {
        match number {
            1 => SectionKind::Allocation,
            2 => SectionKind::Dirty,
            3 => SectionKind::Intent,
            4 => SectionKind::Sync,
            other => SectionKind::Other(other),
        }
    }

    /// Whether this version knows it.
    pub fn known(self) -> bool {
        !matches!(self, SectionKind::Other(_))
    }

    /// Whether a bitmap's section is of this kind (BMP-04).
    pub fn tells_of_changes(self) -> bool {
        matches!(self, SectionKind::Dirty | SectionKind::Sync)
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SectionKind::Allocation => f.write_str("allocation"),
            SectionKind::Dirty => f.write_str("dirty"),
            SectionKind::Intent => f.write_str("intent"),
            SectionKind::Sync => f.write_str("sync"),
            SectionKind::Other(number) => write!(f, "kind {number}"),
        }
    }
}
