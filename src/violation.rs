//! The rules of `spec/` that a file can break, each with its number and its sentence.

use std::fmt;

macro_rules! violations {
    ($($name:ident $id:literal $text:literal)*) => {
        /// A rule of the specification that a file can break.
        ///
        /// Prints as `HDR-05: the header's checksum is right`: the rule as it should be.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Violation { $(#[doc = $text] $name),* }

        impl Violation {
            /// Every rule, in the order of the specification.
            pub const ALL: &[Violation] = &[$(Violation::$name),*];

            /// The rule's number in `spec/`.
            pub fn id(self) -> &'static str {
                match self { $(Violation::$name => $id),* }
            }

            /// The rule in one clause, as it should be.
            pub fn rule(self) -> &'static str {
                match self { $(Violation::$name => $text),* }
            }
        }
    };
}

violations! {
    Slots "HDR-01" "the file has a header slot at 0 and one at 65536"
    Magic "HDR-02" "a header starts with the magic"
    Version "HDR-03" "the version is 1"
    HeaderLength "HDR-04" "the header's length is a multiple of 8 from 128 to 65536"
    HeaderChecksum "HDR-05" "the header's checksum is right"
    EqualSequence "HDR-06" "two valid slots of one sequence number hold equal bytes"
    HeaderReserved "HDR-07" "reserved fields of the header are zero"
    IncompatibleFeature "HDR-08" "no incompatible feature is unknown"
    ReadOnlyFeature "HDR-09" "no read-only feature is unknown to a writer"
    Kind "HDR-10" "the file is an image, a sidecar or a group file"
    State "HDR-11" "the session state is closed, filling or writing"
    Identity "HDR-12" "UUID and epoch are not nil"
    VirtualSize "HDR-13" "the virtual size is at most 2^60"
    DataOffset "HDR-14" "the data offset is a multiple of 4096 from 131072 to 2^60 in an image, and 0 in any other file"
    Sequence "HDR-15" "the sequence number is from 1 to 2^63 - 1"
    DataArea "HDR-16" "the file of an image reaches the end of its data area"
    OneFile "HDR-23" "two valid slots are of one file"
    RecordWalk "REC-01" "the records fill the header exactly, as many as it says"
    RecordPadding "REC-02" "a record is padded with zeros to a multiple of 8"
    RequiredRecord "REC-03" "no required record is unknown"
    RecordFlags "REC-04" "a record has no unknown flag"
    RecordLength "REC-05" "a record is as long as its type says and its reserved fields are zero"
    RecordCount "REC-06" "there is at most one parent, mark of a kind, host and decision record, and at most 64 sections"
    ParentFormat "REC-07" "the parent's format is known, and it has an identity exactly if its flags say so"
    Hint "REC-08" "the hint is UTF-8 without NUL, at most 4096 bytes"
    ParentNeedsAllocation "REC-09" "only a file with an allocation section has a parent"
    MergeMark "REC-10" "a merge mark names a child and an epoch"
    KnownRecordRequired "REC-11" "a parent, a merge or copy mark, a host, a decision and an allocation section are in required records, a group mark is not"
    RecordOrder "REC-12" "records are in ascending order of their type"
    SectionKind "SEC-01" "a required section's kind is known"
    Granularity "SEC-02" "a granule is 2^12 to 2^24 bytes; in an intent section, 2^12 to 2^48"
    SectionPlace "SEC-03" "a section lies on multiples of 4096, behind the header slots, within 2^61"
    SectionLength "SEC-04" "a section is long enough for its bits"
    Overlap "SEC-05" "sections, data area and header slots do not overlap"
    SectionId "SEC-06" "a section's identity is its own and not nil"
    AllocationCovers "SEC-07" "there is at most one allocation section, and it covers exactly the virtual size"
    SectionInFile "SEC-08" "an allocation section lies within the file"
    AllocationHome "SEC-09" "an allocation section lies in an image, or in a sidecar with a host record"
    SealedSector "PAG-01" "a sealed sector carries its marker, its index and its checksum"
    SidecarHost "SID-01" "a sidecar has a host record, and an image has none"
    HostLength "SID-02" "the host is as long as its sidecar says"
    HostFormat "SID-03" "the format of a sidecar's host is known"
    HostCovers "SID-04" "the disk of a sidecar is no longer than its host"
    BitmapRecord "BMP-02" "a bitmap's record is as long as its name asks for, and says what is known"
    BitmapName "BMP-03" "a bitmap has a name"
    BitmapSection "BMP-04" "a bitmap's section is there"
    SidecarOfImage "EPO-04" "a sidecar speaks of the image that it was made for"
    Cycle "CHN-02" "a chain has no cycle and is at most as deep as the caller allows"
    ParentMatches "CHN-03" "the parent is the one, and in the epoch, that its child names"
    Marked "CHN-04" "a file that is being merged into opens only below the child its mark names"
    VisibleLength "CHN-05" "the visible length is within the child and its parent"
    Copying "CHN-06" "a file that is not yet a copy is not opened as one"
    DecisionHome "GRP-01" "a group file has a decision, and no other file has one"
    GroupAlone "GRP-02" "a group file holds no disk and nothing of one"
    Decision "GRP-03" "the decision is known"
    GroupMark "GRP-04" "a group mark names a group, and is there exactly if the feature says so"
    Moved "GRP-06" "a disk in a group is written only if the group's file says that it has not moved"
    QedMagic "QED-01" "a QED image starts with QED's magic"
    QedFeature "QED-02" "no feature of a QED image is unknown"
    QedGeometry "QED-03" "a cluster of a QED image is 2^12 to 2^26 bytes, a table 1 to 16 clusters, each a power of two"
    QedSize "QED-04" "the disk of a QED image is a multiple of 512 bytes, within the reach of its tables, and at most 2^60"
    QedPlace "QED-05" "tables and clusters of a QED image lie on multiples of its cluster size, behind its header, within the file"
    QedName "QED-06" "the name of a QED image's backing file lies in its header and is UTF-8 without NUL, at most 4096 bytes"
    QedBacking "QED-07" "a QED image that has a backing file says that it is raw"
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id(), self.rule())
    }
}
