//! Declares a structure of the file once: as a binrw struct and as the table that `spec/format.md` prints.
//!
//! The only file that knows binrw's errors: a structure is either there in full or it is not.

use binrw::io::{Read, Seek, Write};
use binrw::{BinRead, BinResult, BinWrite, Endian};

/// One field of a structure, as the specification's table lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Bytes before it.
    pub offset: u64,
    /// Bytes it takes.
    pub size: u64,
    /// `u16`, `u8[20]`, `uuid`.
    pub kind: String,
    /// Its name.
    pub name: &'static str,
}

/// One structure of the file, as the specification's table lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    /// The table's name.
    pub name: &'static str,
    /// Bytes it takes.
    pub size: u64,
    /// Its fields, in order and without gaps.
    pub fields: Vec<Field>,
}

/// A type that a field can have.
pub(super) trait Stored {
    const SIZE: u64;
    fn kind() -> String;
}

/// A structure declared by [`on_disk!`].
pub(super) trait OnDisk: Sized {
    /// Bytes it takes.
    const SIZE: usize;
    /// Its table.
    fn structure() -> Structure;
    /// Reads it from the start of `bytes`; `None` if they are too few.
    fn parse(bytes: &[u8]) -> Option<Self>;
    /// Its bytes.
    fn to_bytes(&self) -> Vec<u8>;
}

macro_rules! stored {
    ($($t:ty)*) => { $(impl Stored for $t {
        const SIZE: u64 = size_of::<$t>() as u64;
        fn kind() -> String { stringify!($t).into() }
    })* };
}

stored! { u8 u16 u32 u64 }

/// A fixed number of bytes. Unlike an array it is read and written in one piece: sectors are read often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes<const N: usize>(pub(super) [u8; N]);

impl<const N: usize> Bytes<N> {
    pub(super) const ZERO: Self = Bytes([0; N]);
}

impl<const N: usize> Stored for Bytes<N> {
    const SIZE: u64 = N as u64;
    fn kind() -> String {
        format!("u8[{N}]")
    }
}

impl<const N: usize> BinRead for Bytes<N> {
    type Args<'a> = ();
    fn read_options<R: Read + Seek>(reader: &mut R, _: Endian, _: ()) -> BinResult<Self> {
        let mut bytes = [0; N];
        reader.read_exact(&mut bytes)?;
        Ok(Bytes(bytes))
    }
}

impl<const N: usize> BinWrite for Bytes<N> {
    type Args<'a> = ();
    fn write_options<W: Write + Seek>(&self, writer: &mut W, _: Endian, _: ()) -> BinResult<()> {
        Ok(writer.write_all(&self.0)?)
    }
}

/// Declares a structure of the file: little endian, without gaps, its table taken from its fields.
macro_rules! on_disk {
    ($(#[$doc:meta])* $name:ident, table $table:literal {
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
    }) => {
        $(#[$doc])*
        #[binrw::binrw]
        #[brw(little)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) struct $name { $($(#[$field_doc])* pub(super) $field: $type,)* }

        impl $crate::format::layout::OnDisk for $name {
            const SIZE: usize = (0 $(+ <$type as $crate::format::layout::Stored>::SIZE)*) as usize;

            fn structure() -> $crate::format::layout::Structure {
                let (mut size, mut fields) = (0, Vec::new());
                $(
                    let kind = <$type as $crate::format::layout::Stored>::kind();
                    let length = <$type as $crate::format::layout::Stored>::SIZE;
                    let name = stringify!($field);
                    fields.push($crate::format::layout::Field { offset: size, size: length, kind, name });
                    size += length;
                )*
                $crate::format::layout::Structure { name: $table, size, fields }
            }

            fn parse(bytes: &[u8]) -> Option<Self> {
                // The only thing that can go wrong is that the bytes end.
                binrw::BinRead::read_le(&mut binrw::io::Cursor::new(bytes.get(..Self::SIZE)?)).ok()
            }

            fn to_bytes(&self) -> Vec<u8> {
                let mut out = binrw::io::Cursor::new(Vec::with_capacity(Self::SIZE));
                binrw::BinWrite::write_le(self, &mut out).expect("memory takes every write");
                out.into_inner()
            }
        }
    };
}

pub(super) use on_disk;
