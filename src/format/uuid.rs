//! The 128-bit identifiers that the format carries.

use super::layout::{Bytes, Stored};
use crate::error::Error;
use binrw::io::{Read, Seek, Write};
use binrw::{BinRead, BinResult, BinWrite, Endian};
use std::fmt;
use std::str::FromStr;

/// The identity of an image, a section or a group, or the name of one content (an epoch): sixteen random bytes.
///
/// Stored and printed in the same order of bytes: `00112233-4455-6677-8899-aabbccddeeff`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// All zeros: nobody's identity.
    pub const NIL: Uuid = Uuid([0; 16]);

    /// Whether it is nobody's identity.
    pub fn is_nil(self) -> bool {
        self == Uuid::NIL
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", uuid::Uuid::from_bytes(self.0).hyphenated())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Uuid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Uuid, Error> {
        match uuid::Uuid::try_parse(text) {
            Ok(uuid) => Ok(Uuid(uuid.into_bytes())),
            Err(_) => Err(Error::Invalid(format!("'{text}' is not a UUID"))),
        }
    }
}

impl Stored for Uuid {
    const SIZE: u64 = 16;
    fn kind() -> String {
        "uuid".into()
    }
}

impl BinRead for Uuid {
    type Args<'a> = ();
    fn read_options<R: Read + Seek>(reader: &mut R, endian: Endian, _: ()) -> BinResult<Self> {
        Ok(Uuid(Bytes::read_options(reader, endian, ())?.0))
    }
}

impl BinWrite for Uuid {
    type Args<'a> = ();
    fn write_options<W: Write + Seek>(&self, writer: &mut W, endian: Endian, _: ()) -> BinResult<()> {
        Bytes(self.0).write_options(writer, endian, ())
    }
}
