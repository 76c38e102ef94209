//! What can be said on the command line: the verbs and habits of `qemu-img`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Live Virtual Disk: images whose only metadata is bitmaps, and jobs that copy, stream and merge them.
///
/// Sizes and offsets are bytes or have a suffix, all in powers of 1024: 4096, 0x1000, 64K, 1.5G.
/// An image that begins with nbd:// or nbd+unix:// is an export of an NBD server (nbd+unix:///EXPORT?socket=PATH), with
/// nbds for TLS (nbds://HOST/EXPORT?tls-certificates=DIR).
/// Exit codes are those of qemu-img: 0 done, 1 failed or misused.
#[derive(Parser, Debug)]
#[command(name = "lvd", version, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make an image: a complete disk, or with -b an overlay.
    Create(Create),
    /// Say what an image is.
    Info(Info),
    /// List where each stretch of the disk comes from.
    Map(Map),
    /// Look for damage. Exit 2: damaged, 63: not an LVD file.
    Check(Check),
    /// Compare two disks byte for byte. Exit 1: they differ, 2: could not compare.
    Compare(Compare),
    /// Copy a disk into a new file of another format.
    Convert(Convert),
    /// Change the size of a disk.
    Resize(Resize),
    /// Put another parent below an overlay.
    Rebase(Rebase),
    /// Copy bytes of the disk to standard output.
    Read(Read),
    /// Copy standard input (or a pattern) into the disk; durable when the command has ended well.
    Write(Write),
    /// Measure requests against an image.
    Bench(Bench),
    /// Copy into an overlay what it lacks, then drop its parent (or keep what lies below BASE).
    Stream(Stream),
    /// Merge an overlay into its parent (or into a layer further down).
    Commit(Commit),
    /// Copy a disk, or its top layer alone, into another file.
    Mirror(Mirror),
    /// Dirty bitmaps: what changed since a point in time.
    #[command(subcommand)]
    Bitmap(Bitmap),
    /// Copy a disk, or what has changed since the backup before, into a new file.
    Backup(Backup),
    /// List where two disks differ.
    Diff(Diff),
    /// Serve disks to guests and tools as Network Block Devices.
    Serve(Serve),
    /// Jobs of a server that was started with --control.
    #[command(subcommand)]
    Job(Job),
    /// Have the guest of a server that was started with --control go on in a new overlay.
    Snapshot(Snapshot),
    /// Show the whole story on temporary files, verified at every step.
    Demo(Demo),
    /// Answer a conformance runner (testdata/ADAPTER.md).
    #[command(hide = true)]
    Adapter,
}

/// A format that a file may be said to have. QED, QEMU's former format, is only read.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Lvd,
    Raw,
    Qed,
}

/// A format that a disk is copied into.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    Lvd,
    Raw,
}

/// How the host's files are read and written.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cache {
    /// Through the host's page cache.
    #[default]
    Writeback,
    /// Past it (O_DIRECT).
    None,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Human,
    Json,
}

/// How facts are printed.
#[derive(Args, Debug, Clone, Copy, Default)]
pub struct Output {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The same, in QEMU's words.
    #[arg(long, value_enum, value_name = "FORM", conflicts_with = "json")]
    output: Option<Form>,
}

impl Output {
    pub fn json(&self) -> bool {
        self.json || self.output == Some(Form::Json)
    }
}

/// How files, and exports of NBD servers, are reached.
#[derive(Args, Debug, Clone)]
pub struct Access {
    /// Cache mode of the host's files.
    #[arg(short = 't', long = "cache", value_enum, value_name = "MODE", default_value = "writeback")]
    pub cache: Cache,
    /// Connect to the NBD server that an image says its parent is on. One that is named on the command line needs no leave.
    #[arg(long)]
    pub remote: bool,
    /// Open only parents that lie in DIR, wherever an image says that its parent is. May be given several times.
    #[arg(long, value_name = "DIR")]
    pub parents_in: Vec<PathBuf>,
    /// Wait so long for an NBD server that is gone to come back.
    #[arg(long, value_name = "SECONDS", default_value_t = Access::RECONNECT)]
    pub reconnect: u64,
}

impl Access {
    /// Seconds: long enough for a server to be started anew.
    const RECONNECT: u64 = 30;
}

impl Default for Access {
    fn default() -> Access {
        Access { cache: Cache::default(), remote: false, parents_in: Vec::new(), reconnect: Access::RECONNECT }
    }
}

/// How the image named first is opened.
#[derive(Args, Debug, Clone, Default)]
pub struct Opening {
    /// What the file is; without it, it must be recognisable as LVD.
    #[arg(short, long, value_enum, value_name = "FMT")]
    pub format: Option<Format>,
    /// The sidecar that belongs to a raw volume, or that holds bitmaps of an image.
    #[arg(long, value_name = "FILE")]
    pub sidecar: Option<PathBuf>,
    #[command(flatten)]
    pub access: Access,
    /// Open a chain although a parent is not the one, or not in the state, that its child names.
    #[arg(long)]
    pub trust_links: bool,
    /// Open a file although it says that a merge into it or a copy to it has not ended, or that it may have moved.
    #[arg(long)]
    pub ignore_marks: bool,
    /// The file of a group of disks that move together: it says of those in it which are the disks.
    #[arg(long, value_name = "FILE")]
    pub group: Option<PathBuf>,
}

/// How a job runs.
#[derive(Args, Debug, Clone, Default)]
pub struct Running {
    /// Bytes a second at most.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub speed: Option<u64>,
    /// Threads that copy.
    #[arg(short = 'm', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Print progress as qemu-img does, terminal or not.
    #[arg(short, long)]
    pub progress: bool,
    /// No progress and no summary.
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Args, Debug)]
pub struct Create {
    /// The parent, relative to the new image's directory, or the URI of an NBD export.
    #[arg(short = 'b', long = "parent", value_name = "PARENT")]
    pub parent: Option<String>,
    /// The parent's format; needed unless it is recognisable as LVD.
    #[arg(short = 'F', long = "parent-format", value_enum, value_name = "FMT", requires = "parent")]
    pub parent_format: Option<Format>,
    /// Bytes that one allocation bit speaks of.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "4K")]
    pub granularity: u64,
    #[command(flatten)]
    pub access: Access,
    /// IMG is a raw volume: make an allocation sidecar beside it (and the volume, where it is missing).
    #[arg(long, value_name = "FILE")]
    pub sidecar: Option<PathBuf>,
    /// The new file.
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
    /// Size of the disk; an overlay takes its parent's unless told.
    #[arg(value_name = "SIZE", value_parser = size)]
    pub size: Option<u64>,
}

#[derive(Args, Debug)]
pub struct Info {
    /// Every layer, from the top down.
    #[arg(long, visible_alias = "backing-chain")]
    pub chain: bool,
    #[command(flatten)]
    pub opening: Opening,
    #[command(flatten)]
    pub output: Output,
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
}

#[derive(Args, Debug)]
pub struct Map {
    /// Begin here.
    #[arg(short = 's', long, value_name = "OFFSET", value_parser = size, default_value = "0")]
    pub start_offset: u64,
    /// Look at so many bytes.
    #[arg(short = 'l', long, value_name = "LEN", value_parser = size)]
    pub max_length: Option<u64>,
    #[command(flatten)]
    pub opening: Opening,
    #[command(flatten)]
    pub output: Output,
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
}

#[derive(Args, Debug)]
pub struct Check {
    #[command(flatten)]
    pub opening: Opening,
    #[command(flatten)]
    pub output: Output,
    /// Print findings alone.
    #[arg(short, long)]
    pub quiet: bool,
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
}

#[derive(Args, Debug)]
pub struct Compare {
    #[command(flatten)]
    pub opening: Opening,
    /// What B is; without it, it must be recognisable as LVD.
    #[arg(short = 'F', long, value_enum, value_name = "FMT")]
    pub second_format: Option<Format>,
    /// Disks of different sizes differ, even if what one has more is all zeros.
    #[arg(short, long)]
    pub strict: bool,
    #[command(flatten)]
    pub running: Running,
    #[arg(value_name = "A")]
    pub first: PathBuf,
    #[arg(value_name = "B")]
    pub second: PathBuf,
}

#[derive(Args, Debug)]
pub struct Convert {
    #[command(flatten)]
    pub opening: Opening,
    /// Format of DST (default lvd; must be said where the name ends in .raw or .img).
    #[arg(short = 'O', long, value_enum, value_name = "FMT")]
    pub output_format: Option<OutputFormat>,
    #[command(flatten)]
    pub running: Running,
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    #[arg(value_name = "DST")]
    pub target: PathBuf,
}

#[derive(Args, Debug)]
pub struct Resize {
    /// Allow the disk to become smaller, which throws its end away.
    #[arg(long)]
    pub shrink: bool,
    #[command(flatten)]
    pub opening: Opening,
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
    /// The new size, or with a sign the change.
    #[arg(value_name = "[+|-]SIZE", allow_hyphen_values = true)]
    pub size: String,
}

#[derive(Args, Debug)]
pub struct Rebase {
    /// Change the link alone: the content of the new parent is said to be the old one's.
    #[arg(short, long = "unsafe")]
    pub unchecked: bool,
    /// The new parent, relative to the image's directory; empty for none.
    #[arg(short = 'b', long = "parent", value_name = "PARENT")]
    pub parent: String,
    /// The new parent's format; needed unless it is recognisable as LVD.
    #[arg(short = 'F', long = "parent-format", value_enum, value_name = "FMT")]
    pub parent_format: Option<Format>,
    #[command(flatten)]
    pub opening: Opening,
    #[command(flatten)]
    pub running: Running,
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
}

#[derive(Args, Debug)]
pub struct Read {
    #[command(flatten)]
    pub opening: Opening,
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
    #[arg(value_name = "OFFSET", value_parser = size)]
    pub offset: u64,
    #[arg(value_name = "LEN", value_parser = size)]
    pub length: u64,
}

#[derive(Args, Debug)]
pub struct Write {
    /// Write zeros instead of standard input.
    #[arg(short, long, conflicts_with_all = ["pattern", "discard"])]
    pub zero: bool,
    /// Say that the range is no longer needed.
    #[arg(long, conflicts_with = "pattern")]
    pub discard: bool,
    /// With --zero: give the space back to the host.
    #[arg(long, requires = "zero")]
    pub unmap: bool,
    /// Write this byte over and over instead of standard input.
    #[arg(short = 'P', long, value_name = "BYTE", value_parser = byte)]
    pub pattern: Option<u8>,
    /// Flush after every SIZE bytes, and then print the offset up to which all is durable.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub acknowledge: Option<u64>,
    #[command(flatten)]
    pub opening: Opening,
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
    #[arg(value_name = "OFFSET", value_parser = size)]
    pub offset: u64,
    /// Bytes to write; without it, all of standard input.
    #[arg(value_name = "LEN", value_parser = size)]
    pub length: Option<u64>,
}

#[derive(Args, Debug)]
pub struct Bench {
    /// Requests in all.
    #[arg(short, long, value_name = "N", default_value_t = 75_000)]
    pub count: u64,
    /// Requests under way at the same time.
    #[arg(short, long, value_name = "N", default_value_t = 64)]
    pub depth: usize,
    /// Write instead of reading.
    #[arg(short, long)]
    pub write: bool,
    /// Bytes of one request.
    #[arg(short = 's', long, value_name = "SIZE", value_parser = size, default_value = "4K")]
    pub buffer_size: u64,
    /// Bytes from one request's start to the next one's (default: the buffer's size).
    #[arg(short = 'S', long, value_name = "SIZE", value_parser = size)]
    pub step_size: Option<u64>,
    /// Where the first request starts.
    #[arg(short = 'o', long, value_name = "OFFSET", value_parser = size, default_value = "0")]
    pub offset: u64,
    /// Flush after every N writes.
    #[arg(long, value_name = "N", requires = "write")]
    pub flush_interval: Option<u64>,
    /// The byte that is written.
    #[arg(long, value_name = "BYTE", value_parser = byte, default_value = "0")]
    pub pattern: u8,
    /// Print the time alone.
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub opening: Opening,
    #[command(flatten)]
    pub output: Output,
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
}

#[derive(Args, Debug)]
pub struct Stream {
    /// The layer that stays below, by its path.
    #[arg(long, value_name = "B")]
    pub base: Option<PathBuf>,
    #[command(flatten)]
    pub opening: Opening,
    #[command(flatten)]
    pub running: Running,
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
}

#[derive(Args, Debug)]
pub struct Commit {
    /// The layer that is merged into, by its path (default: the one below).
    #[arg(long, visible_alias = "base", value_name = "B")]
    pub into: Option<PathBuf>,
    /// The layer that is merged, by its path (default: IMG itself).
    #[arg(long, value_name = "T")]
    pub top: Option<PathBuf>,
    /// Do not empty IMG afterwards.
    #[arg(short = 'd', long)]
    pub keep: bool,
    #[command(flatten)]
    pub opening: Opening,
    #[command(flatten)]
    pub running: Running,
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
}

/// How much of a chain is copied.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sync {
    /// The whole disk.
    #[default]
    Full,
    /// The top layer; the target gets the same parent.
    Top,
}

#[derive(Args, Debug)]
pub struct Mirror {
    /// How much is copied.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "full")]
    pub sync: Sync,
    /// TARGET holds the disk as it was at the start of this bitmap: copy what it says has changed since.
    #[arg(long, value_name = "NAME", conflicts_with = "sync")]
    pub bitmap: Option<String>,
    /// Keep in this bitmap of IMG what TARGET lacks: called again after it was stopped, the mirror goes on with TARGET
    /// from there, whatever was written to IMG meanwhile. The bitmap goes when the mirror is done.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["sync", "bitmap"])]
    pub resume: Option<String>,
    /// Format of TARGET.
    #[arg(short = 'O', long, value_enum, value_name = "FMT", default_value = "lvd")]
    pub output_format: OutputFormat,
    #[command(flatten)]
    pub opening: Opening,
    #[command(flatten)]
    pub running: Running,
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
    #[arg(value_name = "TARGET")]
    pub target: PathBuf,
}

/// A bitmap, by the file that it is in and its name.
#[derive(Args, Debug)]
pub struct Named {
    #[command(flatten)]
    pub opening: Opening,
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// The same, or one of a disk that is served.
#[derive(Args, Debug)]
pub struct Anywhere {
    /// The control socket of a server: IMG is then the name of one of its disks.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["format", "sidecar", "cache", "remote", "reconnect", "trust_links",
        "ignore_marks", "group"])]
    pub control: Option<PathBuf>,
    #[command(flatten)]
    pub named: Named,
}

/// A bitmap of a disk that has moved.
#[derive(Args, Debug)]
pub struct Fetch {
    #[command(flatten)]
    pub control: Control,
    /// The bitmap that has recorded here.
    #[arg(long, value_name = "NAME")]
    pub recorded: String,
    /// Bytes that one bit speaks of.
    #[arg(short, long, value_name = "SIZE", value_parser = size, default_value = "64K")]
    pub granularity: u64,
    /// The disk, as the server calls it.
    #[arg(value_name = "DEVICE")]
    pub device: String,
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The old disk: an export that tells of its bitmap (serve --bitmap NAME).
    #[arg(value_name = "URI")]
    pub old: PathBuf,
}

/// An image, or a raw volume, and its sidecar.
#[derive(Args, Debug)]
pub struct Sidecar {
    /// What IMG is; without it, it must be recognisable as LVD.
    #[arg(short, long, value_enum, value_name = "FMT")]
    pub format: Option<Format>,
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Subcommand, Debug)]
pub enum Bitmap {
    /// Add a bitmap; nothing is dirty in it yet. Prints the point from which on it tells.
    Add {
        /// Bytes that one bit speaks of.
        #[arg(short, long, value_name = "SIZE", value_parser = size, default_value = "64K")]
        granularity: u64,
        /// Do not record yet.
        #[arg(long)]
        disabled: bool,
        #[command(flatten)]
        at: Anywhere,
    },
    /// Take a bitmap away.
    Remove(Anywhere),
    /// Record again.
    Enable(Anywhere),
    /// Record no more.
    Disable(Anywhere),
    /// Begin a new count. Prints the point from which on it tells.
    Clear(Anywhere),
    /// Make dirty in NAME what is dirty in the others. In an image NAME is made, disabled, if it is not there.
    Merge {
        /// The others are bitmaps of this image, or, by its URI, what an export's server tells of as
        /// qemu:dirty-bitmap:SOURCE.
        #[arg(long, value_name = "DISK")]
        from: Option<PathBuf>,
        #[command(flatten)]
        at: Anywhere,
        #[arg(value_name = "SOURCE", required = true)]
        sources: Vec<String>,
    },
    /// Make NAME go on for a disk that has moved here: what is dirty in it on the old server, and what was recorded here
    /// since before the switch. At one instant: the recorded one goes.
    Fetch(Fetch),
    /// List the bitmaps.
    List {
        #[command(flatten)]
        opening: Opening,
        #[command(flatten)]
        output: Output,
        #[arg(value_name = "IMG")]
        image: PathBuf,
    },
    /// List the dirty stretches of a bitmap.
    Extents {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        named: Named,
    },
    /// Make FILE a sidecar of IMG, an image or (with -f raw) a volume: bitmaps are then added with --sidecar FILE.
    Attach(Sidecar),
    /// Take all bitmaps of the sidecar FILE into the image IMG, and delete FILE.
    Detach(Sidecar),
    /// Copy a bitmap, as it is now, into a new sidecar FILE of the image.
    Export {
        #[command(flatten)]
        named: Named,
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Copy a bitmap from the sidecar FILE into the image, if it still fits what the image holds.
    Import {
        #[command(flatten)]
        named: Named,
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make dirty in NAME what differs from OLD, an earlier backup of the disk; NAME is made if it is not there.
    Rebuild {
        /// What OLD is; without it, it must be recognisable as LVD.
        #[arg(short = 'F', long, value_enum, value_name = "FMT")]
        old_format: Option<Format>,
        #[command(flatten)]
        named: Named,
        #[arg(value_name = "OLD")]
        old: PathBuf,
    },
}

#[derive(Args, Debug)]
pub struct Backup {
    /// The bitmap that tells what has changed, and begins a new count when the backup is durable.
    #[arg(long, value_name = "NAME")]
    pub bitmap: Option<String>,
    /// The backup before: copy only what has changed since, into an overlay of it (relative to TARGET's directory).
    #[arg(short = 'b', long = "parent", value_name = "PREVIOUS", requires = "bitmap")]
    pub previous: Option<String>,
    /// The format of the backup before; needed unless it is recognisable as LVD.
    #[arg(short = 'F', long, value_enum, value_name = "FMT", requires = "previous")]
    pub previous_format: Option<Format>,
    /// The point of the backup before, where it does not say itself; another one is refused.
    #[arg(long, value_name = "ID", requires = "previous")]
    pub since: Option<lvd::format::Uuid>,
    /// Leave the bitmap as it is.
    #[arg(long, requires = "bitmap")]
    pub keep_bitmap: bool,
    /// Format of TARGET.
    #[arg(short = 'O', long, value_enum, value_name = "FMT", default_value = "lvd")]
    pub output_format: OutputFormat,
    #[command(flatten)]
    pub opening: Opening,
    #[command(flatten)]
    pub running: Running,
    #[arg(value_name = "IMG")]
    pub image: PathBuf,
    #[arg(value_name = "TARGET")]
    pub target: PathBuf,
}

#[derive(Args, Debug)]
pub struct Diff {
    #[command(flatten)]
    pub opening: Opening,
    /// What B is; without it, it must be recognisable as LVD.
    #[arg(short = 'F', long, value_enum, value_name = "FMT")]
    pub second_format: Option<Format>,
    /// Bytes in which differences are told.
    #[arg(short, long, value_name = "SIZE", value_parser = size, default_value = "64K")]
    pub granularity: u64,
    #[command(flatten)]
    pub output: Output,
    #[arg(value_name = "A")]
    pub first: PathBuf,
    #[arg(value_name = "B")]
    pub second: PathBuf,
}

#[derive(Args, Debug)]
pub struct Serve {
    /// Listen at this path; - for one in a temporary directory, with --run.
    #[arg(short = 'k', long, visible_alias = "socket", value_name = "PATH")]
    pub unix: Option<PathBuf>,
    /// Listen at this address (port 10809 unless told; 0 for any that is free, which is then printed).
    #[arg(long, value_name = "HOST[:PORT]")]
    pub tcp: Option<String>,
    /// What clients call the disk (default: the file's name). Once for each image, in order. A client that names none
    /// gets the first.
    #[arg(short = 'x', long = "export", visible_alias = "export-name", value_name = "NAME")]
    pub exports: Vec<String>,
    /// A line for people about the export. Once for each image, in order.
    #[arg(short = 'D', long = "description", value_name = "TEXT")]
    pub descriptions: Vec<String>,
    /// Allow no changes.
    #[arg(short, long)]
    pub read_only: bool,
    /// Acknowledge no change before it is durable: a client that reconnects then outlives a server that is killed.
    #[arg(long, conflicts_with = "read_only")]
    pub write_through: bool,
    /// Tell clients of this dirty bitmap (as qemu:dirty-bitmap:NAME).
    #[arg(short = 'B', long = "bitmap", value_name = "NAME")]
    pub bitmaps: Vec<String>,
    /// Keep in the top layer what clients read from below.
    #[arg(long, conflicts_with = "read_only")]
    pub copy_on_read: bool,
    /// Require TLS, with server-cert.pem and server-key.pem of this directory.
    #[arg(long, value_name = "DIR")]
    pub tls_certificates: Option<PathBuf>,
    /// Require certificates of clients too, of an authority in ca-cert.pem of that directory. Those in ca-crl.pem, if it
    /// is there, are revoked.
    #[arg(long, requires = "tls_certificates")]
    pub tls_verify_peer: bool,
    /// Take commands at this path, as QEMU's machine protocol has them: jobs, snapshots, bitmaps. Who reaches it may do with
    /// files what this user may.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Most clients at the same time; more wait.
    #[arg(short = 'e', long, value_name = "N", default_value_t = 100)]
    pub shared: usize,
    /// Run a shell command with $uri, $unixsocket, $exportname and $nbd set, and end with it and its exit code. A signal that ends
    /// the server before ends the command too.
    #[arg(long, value_name = "CMD")]
    pub run: Option<String>,
    #[command(flatten)]
    pub opening: Opening,
    #[arg(value_name = "IMG", required = true)]
    pub images: Vec<PathBuf>,
}

/// The server that is meant.
#[derive(Args, Debug)]
pub struct Control {
    /// The server's control socket.
    #[arg(long, value_name = "PATH")]
    pub control: PathBuf,
}

/// A job of a server.
#[derive(Args, Debug)]
pub struct NamedJob {
    #[command(flatten)]
    pub control: Control,
    /// The job's name, which is the disk's unless it was given another.
    #[arg(value_name = "JOB")]
    pub id: String,
}

/// A job that is to begin on a disk that is served.
#[derive(Args, Debug)]
pub struct NewJob {
    #[command(flatten)]
    pub control: Control,
    /// What the job is called (default: as the disk).
    #[arg(long, value_name = "JOB")]
    pub id: Option<String>,
    /// Bytes a second at most.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "0", hide_default_value = true)]
    pub speed: u64,
    /// The disk, by the name of its export.
    #[arg(value_name = "DEVICE")]
    pub device: String,
}

#[derive(Subcommand, Debug)]
pub enum Job {
    /// Begin to copy into the guest's layer what it lacks, and then to drop its parent (or to keep what lies below BASE).
    Stream {
        #[command(flatten)]
        job: NewJob,
        /// The layer that stays below, by its path.
        #[arg(long, value_name = "B")]
        base: Option<PathBuf>,
    },
    /// Begin to merge layers. When the guest's own is among them: until the job is completed, which moves the guest.
    Commit {
        #[command(flatten)]
        job: NewJob,
        /// The layer that is merged into, by its path (default: the lowest).
        #[arg(long, visible_alias = "base", value_name = "B")]
        into: Option<PathBuf>,
        /// The layer that is merged, by its path (default: the guest's).
        #[arg(long, value_name = "T")]
        top: Option<PathBuf>,
    },
    /// Begin to copy the disk, and keep the copy equal until the job is completed, which moves the guest there, or split.
    Mirror {
        #[command(flatten)]
        job: NewJob,
        /// How much is copied.
        #[arg(long, value_enum, value_name = "WHAT", default_value = "full")]
        sync: Sync,
        /// Format of TARGET.
        #[arg(short = 'O', long, value_enum, value_name = "FMT", default_value = "lvd")]
        output_format: OutputFormat,
        /// Keep in this bitmap of the disk what TARGET lacks: begun again after it was stopped, the mirror goes on with TARGET
        /// from there.
        #[arg(long, value_name = "NAME", conflicts_with = "sync")]
        resume: Option<String>,
        /// Compare all of TARGET with the disk before the job is ready (default: if TARGET is raw and there is --resume).
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        compare: Option<bool>,
        #[arg(value_name = "TARGET")]
        target: PathBuf,
    },
    /// Begin to copy the disk as it is now; the guest goes on, and what it changes is copied first.
    Backup {
        #[command(flatten)]
        job: NewJob,
        /// The bitmap that tells what has changed, and begins a new count now if the backup ends well.
        #[arg(long, value_name = "NAME")]
        bitmap: Option<String>,
        /// Leave the bitmap as it is: the next incremental backup has all of this one's changes too.
        #[arg(long, requires = "bitmap")]
        keep_bitmap: bool,
        /// The backup before, by its path: copy only what has changed since, into an overlay of it.
        #[arg(short = 'b', long = "parent", value_name = "PREVIOUS", requires = "bitmap")]
        previous: Option<PathBuf>,
        /// TARGET is a raw file or export that holds the disk as it was at the bitmap's start: copy only what has changed
        /// since onto it.
        #[arg(long, requires = "bitmap", conflicts_with = "previous")]
        onto: bool,
        /// Format of TARGET.
        #[arg(short = 'O', long, value_enum, value_name = "FMT", default_value = "lvd")]
        output_format: OutputFormat,
        #[arg(value_name = "TARGET")]
        target: PathBuf,
    },
    /// Keep the disk as it is now for others to pull, as an export of its own, until the job is completed or cancelled.
    Pull {
        #[command(flatten)]
        job: NewJob,
        /// The bitmap that tells them what has changed (`qemu:dirty-bitmap:NAME`), and begins a new count now if the job is
        /// completed.
        #[arg(long, value_name = "NAME")]
        bitmap: Option<String>,
        /// The name of the export.
        #[arg(short = 'x', long, value_name = "EXPORT")]
        export: String,
        /// A new file, which keeps what the guest overwrites meanwhile.
        #[arg(value_name = "SCRATCH")]
        scratch: PathBuf,
    },
    /// List the jobs.
    List {
        #[command(flatten)]
        control: Control,
        #[command(flatten)]
        output: Output,
    },
    /// Let a job rest.
    Pause(NamedJob),
    /// Have it go on, after a pause or an error.
    Resume(NamedJob),
    /// End it. What it has done stays, and is right; of a mirror the target is no copy.
    Cancel(NamedJob),
    /// Compare the target of a mirror that is ready with the disk, while the guest goes on. It is not completed or split before
    /// all was found equal; a difference is an error.
    Compare(NamedJob),
    /// End a mirror that is ready with a target that is the disk of this moment; the guest stays.
    Split(NamedJob),
    /// End a mirror, or a commit of the guest's layer, that is ready: the guest moves.
    Complete {
        #[command(flatten)]
        control: Control,
        /// The new file in which it is decided that the guests of several mirrors move: after any crash all have, or none.
        #[arg(long, value_name = "FILE")]
        group: Option<PathBuf>,
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
    /// Let a job that waits for it make what it has done count.
    Finalize(NamedJob),
    /// Forget a job that has ended.
    Dismiss(NamedJob),
    /// Limit its speed.
    SetSpeed {
        #[command(flatten)]
        job: NamedJob,
        /// Bytes a second; 0 for no limit.
        #[arg(value_name = "SIZE", value_parser = size)]
        speed: u64,
    },
}

#[derive(Args, Debug)]
pub struct Snapshot {
    #[command(flatten)]
    pub control: Control,
    /// Disks, by the names of their exports, each with the new overlay in which its guest goes on. All at one instant, or none.
    #[arg(value_names = ["DEVICE", "FILE"], num_args = 2.., required = true)]
    pub overlays: Vec<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Demo {
    /// Size of the disk.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "256M")]
    pub size: u64,
    /// Where the temporary directory is made.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Keep the files and say where they are.
    #[arg(long)]
    pub keep: bool,
}

/// A size as users write it.
pub fn size(text: &str) -> Result<u64, String> {
    lvd::units::Size::parse(text).map(|size| size.0).map_err(|error| error.to_string())
}

fn byte(text: &str) -> Result<u8, String> {
    size(text)?.try_into().map_err(|_| format!("'{text}' is not a byte (0 to 255)"))
}
