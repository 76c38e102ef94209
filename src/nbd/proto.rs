//! The protocol's numbers and the heads of its messages, under the names of `doc/proto.md`.
#![allow(missing_docs, reason = "proto.md says what each is")]

use binrw::{BinRead, BinWrite};

pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
pub const NBD_REP_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub const NBD_REQUEST_MAGIC: u32 = 0x2560_9513;
pub const NBD_SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub const NBD_STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

pub const NBD_FLAG_FIXED_NEWSTYLE: u16 = 1;
pub const NBD_FLAG_NO_ZEROES: u16 = 1 << 1;
pub const NBD_FLAG_C_FIXED_NEWSTYLE: u32 = 1;
pub const NBD_FLAG_C_NO_ZEROES: u32 = 1 << 1;

pub const NBD_FLAG_HAS_FLAGS: u16 = 1;
pub const NBD_FLAG_READ_ONLY: u16 = 1 << 1;
pub const NBD_FLAG_SEND_FLUSH: u16 = 1 << 2;
pub const NBD_FLAG_SEND_FUA: u16 = 1 << 3;
pub const NBD_FLAG_SEND_TRIM: u16 = 1 << 5;
pub const NBD_FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
pub const NBD_FLAG_SEND_DF: u16 = 1 << 7;
pub const NBD_FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
pub const NBD_FLAG_SEND_CACHE: u16 = 1 << 10;
pub const NBD_FLAG_SEND_FAST_ZERO: u16 = 1 << 11;

pub const NBD_OPT_EXPORT_NAME: u32 = 1;
pub const NBD_OPT_ABORT: u32 = 2;
pub const NBD_OPT_LIST: u32 = 3;
pub const NBD_OPT_STARTTLS: u32 = 5;
pub const NBD_OPT_INFO: u32 = 6;
pub const NBD_OPT_GO: u32 = 7;
pub const NBD_OPT_STRUCTURED_REPLY: u32 = 8;
pub const NBD_OPT_LIST_META_CONTEXT: u32 = 9;
pub const NBD_OPT_SET_META_CONTEXT: u32 = 10;

pub const NBD_REP_ACK: u32 = 1;
pub const NBD_REP_SERVER: u32 = 2;
pub const NBD_REP_INFO: u32 = 3;
pub const NBD_REP_META_CONTEXT: u32 = 4;
pub const NBD_REP_FLAG_ERROR: u32 = 1 << 31;
pub const NBD_REP_ERR_UNSUP: u32 = (1 << 31) + 1;
pub const NBD_REP_ERR_INVALID: u32 = (1 << 31) + 3;
pub const NBD_REP_ERR_TLS_REQD: u32 = (1 << 31) + 5;
pub const NBD_REP_ERR_UNKNOWN: u32 = (1 << 31) + 6;
pub const NBD_REP_ERR_TOO_BIG: u32 = (1 << 31) + 9;

pub const NBD_INFO_EXPORT: u16 = 0;
pub const NBD_INFO_NAME: u16 = 1;
pub const NBD_INFO_DESCRIPTION: u16 = 2;
pub const NBD_INFO_BLOCK_SIZE: u16 = 3;

pub const NBD_CMD_READ: u16 = 0;
pub const NBD_CMD_WRITE: u16 = 1;
pub const NBD_CMD_DISC: u16 = 2;
pub const NBD_CMD_FLUSH: u16 = 3;
pub const NBD_CMD_TRIM: u16 = 4;
pub const NBD_CMD_CACHE: u16 = 5;
pub const NBD_CMD_WRITE_ZEROES: u16 = 6;
pub const NBD_CMD_BLOCK_STATUS: u16 = 7;

pub const NBD_CMD_FLAG_FUA: u16 = 1;
pub const NBD_CMD_FLAG_NO_HOLE: u16 = 1 << 1;
pub const NBD_CMD_FLAG_DF: u16 = 1 << 2;
pub const NBD_CMD_FLAG_REQ_ONE: u16 = 1 << 3;
pub const NBD_CMD_FLAG_FAST_ZERO: u16 = 1 << 4;

pub const NBD_REPLY_FLAG_DONE: u16 = 1;
pub const NBD_REPLY_FLAG_ERROR: u16 = 1 << 15;
pub const NBD_REPLY_TYPE_NONE: u16 = 0;
pub const NBD_REPLY_TYPE_OFFSET_DATA: u16 = 1;
pub const NBD_REPLY_TYPE_OFFSET_HOLE: u16 = 2;
pub const NBD_REPLY_TYPE_BLOCK_STATUS: u16 = 5;
pub const NBD_REPLY_TYPE_ERROR: u16 = (1 << 15) + 1;

pub const NBD_STATE_HOLE: u32 = 1;
pub const NBD_STATE_ZERO: u32 = 1 << 1;
/// QEMU's, of the contexts `qemu:dirty-bitmap:NAME`.
pub const NBD_STATE_DIRTY: u32 = 1;

/// The error values. [`text`](Self::text) is what people are shown: nothing of the host's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(non_camel_case_types, reason = "the protocol's names")]
pub enum Errno {
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
}

impl Errno {
    /// A few words for people.
    pub fn text(self) -> &'static str {
        match self {
            Errno::NBD_EPERM => "the export does not allow it",
            Errno::NBD_EIO => "the disk failed",
            Errno::NBD_EINVAL => "the request makes no sense to this export",
            Errno::NBD_ENOSPC => "no space left",
            Errno::NBD_ENOTSUP => "not faster than writing",
            Errno::NBD_ESHUTDOWN => "the server is shutting down",
        }
    }
}

/// A fixed part of a message: big endian, without gaps.
pub trait Message: BinRead + BinWrite {
    /// Bytes it takes.
    const LENGTH: usize;
    /// Reads it from the start of `bytes`; `None` if they are too few.
    fn parse(bytes: &[u8]) -> Option<Self>;
    /// Appends it to `out`.
    fn put(&self, out: &mut Vec<u8>);
}

macro_rules! message {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[binrw::binrw]
        #[brw(big)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name { $(pub $field: $type,)* }

        impl Message for $name {
            const LENGTH: usize = 0 $(+ size_of::<$type>())*;

            fn parse(bytes: &[u8]) -> Option<Self> {
                // The only thing that can go wrong is that the bytes end.
                BinRead::read(&mut binrw::io::Cursor::new(bytes.get(..Self::LENGTH)?)).ok()
            }

            fn put(&self, out: &mut Vec<u8>) {
                let end = out.len() as u64;
                let mut cursor = binrw::io::Cursor::new(out);
                cursor.set_position(end);
                self.write(&mut cursor).expect("memory takes every write");
            }
        }
    };
}

message! {
    /// The server's first words.
    Greeting { magic: u64, newstyle: u64, flags: u16, }
}
message! {
    /// What the client answers to the greeting.
    ClientFlags { flags: u32, }
}
message! {
    /// Before the data of an option.
    OptionHead { magic: u64, option: u32, length: u32, }
}
message! {
    /// Before the data of a reply to an option.
    OptionReply { magic: u64, option: u32, reply: u32, length: u32, }
}
message! {
    /// The reply to `NBD_OPT_EXPORT_NAME`, before its zeroes.
    ExportNameReply { size: u64, flags: u16, }
}
message! {
    /// `NBD_INFO_EXPORT`.
    InfoExport { info: u16, size: u64, flags: u16, }
}
message! {
    /// `NBD_INFO_BLOCK_SIZE`, in bytes.
    InfoBlockSize { info: u16, minimum: u32, preferred: u32, maximum: u32, }
}
message! {
    /// A request; the payload of a write follows it.
    RequestHead { magic: u32, flags: u16, command: u16, cookie: u64, offset: u64, length: u32, }
}
message! {
    /// A simple reply; what was read follows it.
    SimpleReply { magic: u32, error: u32, cookie: u64, }
}
message! {
    /// A structured reply chunk, before its payload.
    ChunkHead { magic: u32, flags: u16, kind: u16, cookie: u64, length: u32, }
}
message! {
    /// The payload of `NBD_REPLY_TYPE_OFFSET_DATA`, before the data.
    OffsetData { offset: u64, }
}
message! {
    /// The payload of `NBD_REPLY_TYPE_OFFSET_HOLE`.
    OffsetHole { offset: u64, size: u32, }
}
message! {
    /// The payload of `NBD_REPLY_TYPE_BLOCK_STATUS`, before its descriptors.
    BlockStatus { context: u32, }
}
message! {
    /// One extent of a block status.
    Descriptor { length: u32, flags: u32, }
}
message! {
    /// The payload of `NBD_REPLY_TYPE_ERROR`, before its message.
    ErrorHead { error: u32, length: u16, }
}
