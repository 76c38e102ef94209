//! TLS: who is let in, what counts of what came before it, and clients of others.

use crate::client::Client;
use crate::common::{MIB, Place, Random, content, peers, same};
use crate::hostile::{Rig, until_end};
use crate::serve::Server;
use crate::{lvd, tool};
use lvd::nbd::proto::*;
use lvd::nbd::server::Options;
use lvd::nbd::tls::{ClientTls, ServerTls};
use lvd::nbd::{Socket, StartTls};
use lvd::testing::nbd::opening;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use std::fs;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// An authority, and the certificates that it has signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    signed: u64,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        Authority { issuer: CertifiedIssuer::self_signed(params, key).expect("signed"), signed: 0 }
    }

    /// A directory in which this authority is trusted.
    fn trusted(&self, place: &Place, directory: &str) {
        fs::create_dir_all(place.path(directory)).expect("made");
        place.file(&format!("{directory}/ca-cert.pem"), self.issuer.pem().as_bytes());
    }

    /// A certificate and its key in a directory. Its number is that of the authority's certificates so far.
    fn sign(&mut self, place: &Place, directory: &str, role: &str) {
        self.signed += 1;
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, role);
        params.serial_number = Some(SerialNumber::from(self.signed));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        fs::create_dir_all(place.path(directory)).expect("made");
        place.file(&format!("{directory}/{role}-cert.pem"), certificate.pem().as_bytes());
        place.file(&format!("{directory}/{role}-key.pem"), key.serialize_pem().as_bytes());
    }

    /// A list of one certificate that is revoked.
    fn revoke(&self, place: &Place, directory: &str, number: u64) {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(number),
            revocation_time: date_time_ymd(2024, 6, 17),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 6, 17),
            next_update: date_time_ymd(4000, 6, 17),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).and_then(|list| list.pem()).expect("signed");
        place.file(&format!("{directory}/ca-crl.pem"), list.as_bytes());
    }
}

/// The directories `server`, `client`, `anonymous` (which trusts the authority and has no certificate), and `stranger`,
/// a client with a certificate of another authority, which trusts this one.
fn certificates(place: &Place) -> Authority {
    let mut authority = Authority::new(&place.root().display().to_string());
    let directories = ["server", "client", "anonymous", "stranger"];
    directories.iter().for_each(|directory| authority.trusted(place, directory));
    authority.sign(place, "server", "server");
    authority.sign(place, "client", "client");
    Authority::new("theirs").sign(place, "stranger", "client");
    authority
}

fn options(place: &Place, verify_peer: bool) -> Options {
    let tls = ServerTls::load(&place.path("server"), verify_peer).expect("loaded");
    Options { tls: Some(Arc::new(tls)), ..Options::default() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Both ends of an encrypted stream are streams for tests.
struct Encrypted(Arc<dyn Socket>);

impl Read for Encrypted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Encrypted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&[IoSlice::new(bytes)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    OptionHead { magic: IHAVEOPT, option, length: data.len() as u32 }.put(&mut bytes);
    [&bytes, data].concat()
}

/// The client's flags and `NBD_OPT_STARTTLS`.
fn hello() -> Vec<u8> {
    [vec![0, 0, 0, 3], option(NBD_OPT_STARTTLS, &[])].concat()
}

/// Bytes of the greeting, and of the reply to `NBD_OPT_STARTTLS`.
const ANSWER: usize = 18 + OptionReply::LENGTH;

/// Sends [`hello`] with more behind it, and has it acknowledged.
fn start_tls(stream: &mut UnixStream, behind: &[u8]) {
    stream.write_all(&[&hello(), behind].concat()).expect("sent");
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer).expect("an answer");
    let reply = OptionReply::parse(&answer[18..]).expect("a reply");
    assert_eq!((reply.option, reply.reply), (NBD_OPT_STARTTLS, NBD_REP_ACK));
}

fn encrypt(place: &Place, directory: &str, mut stream: UnixStream) -> io::Result<Encrypted> {
    start_tls(&mut stream, &[]);
    let tls = ClientTls::load(&place.path(directory)).expect("loaded");
    tls.to("localhost").start(Arc::new(stream), &[], soon()).map(Encrypted)
}

/// Whether a client with these certificates gets as far as the list of exports.
fn is_served(place: &Place, directory: &str, rig: &Rig) -> bool {
    let listed = encrypt(place, directory, rig.connect()).and_then(|mut stream| {
        stream.write_all(&option(NBD_OPT_LIST, &[]))?;
        stream.read_exact(&mut [0; OptionReply::LENGTH])
    });
    listed.is_ok()
}

#[test]
fn who_is_let_in() {
    let place = Place::new();
    let mut authority = certificates(&place);
    let anybody = Rig::new(options(&place, false));
    for directory in ["client", "anonymous", "stranger"] {
        assert!(is_served(&place, directory, &anybody), "{directory}");
    }
    assert_eq!(*anybody.told.lock().unwrap(), Vec::<String>::new());

    let verified = Rig::new(options(&place, true));
    assert!(is_served(&place, "client", &verified));
    assert!(!is_served(&place, "anonymous", &verified));
    assert!(!is_served(&place, "stranger", &verified));
    authority.trusted(&place, "revoked");
    authority.sign(&place, "revoked", "client");
    assert!(is_served(&place, "revoked", &verified));
    // Once all of them are gone, the server has said what it says.
    verified.server.stop();
    let told = verified.told.lock().unwrap().join("\n");
    assert!(told.contains("a client was sent away: TLS: peer sent no certificates"), "{told}");
    assert!(told.contains("UnknownIssuer") && told.lines().count() == 2, "{told}");

    authority.revoke(&place, "server", authority.signed);
    let verified = Rig::new(options(&place, true));
    assert!(is_served(&place, "client", &verified));
    assert!(!is_served(&place, "revoked", &verified));
}

#[test]
fn whom_a_client_trusts() {
    let place = Place::new();
    let authority = certificates(&place);
    let rig = Rig::new(options(&place, false));
    let other = Place::new();
    certificates(&other);
    assert!(encrypt(&other, "client", rig.connect()).is_err_and(|error| error.to_string().contains("UnknownIssuer")));
    let mut stream = rig.connect();
    start_tls(&mut stream, &[]);
    let tls = ClientTls::load(&place.path("client")).expect("loaded");
    let refused = tls.to("elsewhere").start(Arc::new(stream), &[], soon());
    assert!(refused.is_err_and(|error| error.to_string().contains("not valid for name")));
    authority.revoke(&place, "client", 1);
    assert!(encrypt(&place, "client", rig.connect()).is_err_and(|error| error.to_string().contains("Revoked")));
}

#[test]
fn requests_of_every_kind() {
    let place = Place::new();
    certificates(&place);
    let rig = Rig::new(options(&place, true));
    let mut client = Client::greeted(encrypt(&place, "client", rig.connect()).expect("let in"));
    let data = Random::new(1).bytes(1 << 19);
    client.write(1000, &data);
    client.ask(NBD_CMD_FLUSH, 0, 0, &[]).expect("flushed");
    assert!(client.read(1000, data.len() as u32) == data);
    assert!(client.ask(NBD_CMD_BLOCK_STATUS, 0, 1 << 20, &[]).expect("told").len() > 12);
    client.send(NBD_CMD_DISC, 0, 0, &[]);
    assert_eq!(client.stream.read(&mut [0; 1]).expect("the end"), 0);
    // A client that goes without a word is no reason to say something.
    let client = encrypt(&place, "client", rig.connect()).expect("let in");
    client.0.shutdown(Shutdown::Both).expect("shut");
    rig.server.stop();
    assert_eq!(*rig.told.lock().unwrap(), Vec::<String>::new());
}

/// Nothing is told in the clear, and nothing said there counts once there is TLS.
#[test]
fn what_came_before_tls_is_forgotten() {
    let place = Place::new();
    certificates(&place);
    let rig = Rig::new(options(&place, false));
    let mut stream = rig.connect();
    stream.write_all(&opening(true)).expect("sent");
    stream.read_exact(&mut [0; 18]).expect("a greeting");
    for wanted in [NBD_OPT_STRUCTURED_REPLY, NBD_OPT_SET_META_CONTEXT, NBD_OPT_GO] {
        let mut head = [0; OptionReply::LENGTH];
        stream.read_exact(&mut head).expect("a reply");
        let head = OptionReply::parse(&head).expect("all of it");
        stream.read_exact(&mut vec![0; head.length as usize]).expect("its words");
        assert_eq!((head.option, head.reply), (wanted, NBD_REP_ERR_TLS_REQD));
    }
    stream.write_all(&option(NBD_OPT_STARTTLS, &[])).expect("sent");
    stream.read_exact(&mut [0; OptionReply::LENGTH]).expect("acknowledged");
    let tls = ClientTls::load(&place.path("anonymous")).expect("loaded");
    let mut stream = Encrypted(tls.to("localhost").start(Arc::new(stream), &[], soon()).expect("let in"));
    stream.write_all(&opening(false)[4..]).expect("sent");
    // What is not negotiated leaves the flag out, and replies simple.
    let mut reply = [0; 2 * OptionReply::LENGTH + InfoExport::LENGTH];
    stream.read_exact(&mut reply).expect("replies");
    let info = InfoExport::parse(&reply[OptionReply::LENGTH..]).expect("all of it");
    assert_eq!(info.flags & NBD_FLAG_SEND_DF, 0);
    stream.write_all(&lvd::testing::nbd::request(NBD_CMD_BLOCK_STATUS, 0, 5, 0, 4096, &[])).expect("sent");
    let mut reply = [0; SimpleReply::LENGTH];
    stream.read_exact(&mut reply).expect("a reply");
    let reply = SimpleReply::parse(&reply).expect("all of it");
    assert_eq!((reply.magic, reply.error), (NBD_SIMPLE_REPLY_MAGIC, Errno::NBD_EINVAL as u32));
}

/// Who sits in between puts options behind the client's `NBD_OPT_STARTTLS`, so that the server takes them for what came
/// out of TLS. They go to TLS, which ends the connection.
#[test]
fn options_that_are_slipped_in() {
    let place = Place::new();
    certificates(&place);
    let rig = Rig::new(options(&place, false));
    for slipped in [option(NBD_OPT_LIST, &[]), opening(true)[4..].to_vec(), vec![0; 100_000]] {
        let mut stream = rig.connect();
        start_tls(&mut stream, &slipped);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        // An alert of TLS, and nothing of the protocol.
        assert!(rest.is_empty() || rest[0] == 0x15 && rest.len() == 7, "{rest:x?}");
    }
    let told = rig.told.lock().unwrap();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().all(|line| line.starts_with("a client was sent away: TLS: ")), "{told:?}");
}

/// The same from before a client's own handshake: it does not succeed, so that nothing can be slipped in unnoticed.
#[test]
fn options_that_are_slipped_in_before_a_handshake() {
    let place = Place::new();
    certificates(&place);
    let rig = Rig::new(options(&place, false));
    let tls = ClientTls::load(&place.path("anonymous")).expect("loaded");
    for (slipped, fails) in [(Vec::new(), false), (option(NBD_OPT_LIST, &[]), true)] {
        // Without them, what comes in one piece with the option is the handshake's first message, and is taken as that.
        let first = [hello(), slipped].concat();
        let together = Together { stream: rig.connect(), first: Mutex::new(Some(first)) };
        let begun = tls.to("localhost").start(Arc::new(together), &[], soon());
        assert_eq!(begun.is_err(), fails);
    }
}

/// A client whose first message goes out in one piece with something before it.
struct Together {
    stream: UnixStream,
    first: Mutex<Option<Vec<u8>>>,
}

impl Socket for Together {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Socket::read(&self.stream, buffer)
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(first) = self.first.lock().unwrap().take() else { return Socket::write(&self.stream, slices) };
        (&self.stream).write_all(&[&first, &*slices[0]].concat())?;
        (&self.stream).read_exact(&mut [0; ANSWER])?;
        Ok(slices[0].len())
    }

    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_timeout(timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        Socket::shutdown(&self.stream, how)
    }
}

/// What is no handshake ends the connection, at once where it can be told.
#[test]
fn garbage_instead_of_a_handshake() {
    let place = Place::new();
    certificates(&place);
    let rig = Rig::new(options(&place, true));
    let mut random = Random::new(4);
    let begun = Instant::now();
    for round in 0..40 {
        let mut stream = rig.connect();
        start_tls(&mut stream, &[]);
        let mut bytes = random.bytes(1000);
        if round % 2 == 0 {
            // The head of a record of a handshake.
            bytes[..5].copy_from_slice(&[0x16, 3, 1, 2, 0]);
        }
        let _ = stream.write_all(&bytes);
        until_end(&mut stream);
    }
    // A first message that never ends, in records that do.
    let mut stream = rig.connect();
    start_tls(&mut stream, &[]);
    let record = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff], &[0; 0x4000 - 4][..]].concat();
    let mut sent = 0;
    while stream.write_all(&record).is_ok() {
        sent += record.len();
        assert!(sent < 4 << 20, "it goes on and on");
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "ended by a deadline");
    assert_eq!(rig.told.lock().unwrap().len(), 41);
    assert!(is_served(&place, "client", &rig));
}

/// The deadline for choosing an export holds for a handshake in drops, for one that does not begin, and for what comes
/// after it.
#[test]
fn slow_handshakes() {
    let place = Place::new();
    certificates(&place);
    let patience = Duration::from_millis(1500);
    let rig = Rig::new(Options { handshake: patience, ..options(&place, false) });
    let begun = Instant::now();
    let mut silent = rig.connect();
    start_tls(&mut silent, &[]);
    let mut slow = rig.connect();
    start_tls(&mut slow, &[]);
    let mut idle = encrypt(&place, "anonymous", rig.connect()).expect("let in");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let record = [0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc].into_iter().chain(std::iter::repeat_n(0, 400));
            for byte in record {
                std::thread::sleep(Duration::from_millis(20));
                if (&slow).write_all(&[byte]).is_err() {
                    return;
                }
            }
        });
        until_end(&mut silent);
        assert_eq!(idle.read(&mut [0; 1]).expect("the end"), 0);
    });
    let _ = until_end(&mut slow);
    let taken = begun.elapsed();
    assert!(taken > patience && taken < patience * 6, "{taken:?}");
    assert_eq!(*rig.told.lock().unwrap(), Vec::<String>::new());
}

/// A pair of encrypted sockets, and the stream underneath the client's.
fn pair(place: &Place) -> (Arc<dyn Socket>, Arc<dyn Socket>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let underneath = theirs.try_clone().expect("cloned");
    let server = ServerTls::load(&place.path("server"), true).expect("loaded");
    let client = ClientTls::load(&place.path("client")).expect("loaded");
    std::thread::scope(|scope| {
        let server = scope.spawn(move || server.start(Arc::new(ours), &[], soon()).expect("a client"));
        let client = client.to("localhost").start(Arc::new(theirs), &[], soon()).expect("a server");
        (server.join().expect("no panic"), client, underneath)
    })
}

/// Both directions are full before anybody reads: who reads and who writes do not wait for each other.
#[test]
fn both_directions_at_once() {
    const LENGTH: usize = 24 << 20;
    let place = Place::new();
    certificates(&place);
    let (server, client, _) = pair(&place);
    std::thread::scope(|scope| {
        for (seed, from, to) in [(1, &server, &client), (2, &client, &server)] {
            from.set_timeout(Some(Duration::from_secs(60))).expect("set");
            scope.spawn(move || {
                let data = Random::new(seed).bytes(LENGTH);
                let mut rest = &data[..];
                while !rest.is_empty() {
                    // In one piece and in crumbs.
                    let (head, tail) = rest.split_at(rest.len().min(7));
                    rest = &rest[from.write(&[IoSlice::new(head), IoSlice::new(tail)]).expect("written")..];
                }
            });
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                let (wanted, mut got) = (Random::new(seed).bytes(LENGTH), vec![0; LENGTH]);
                let mut at = 0;
                while at < LENGTH {
                    let count = to.read(&mut got[at..]).expect("read");
                    assert!(count > 0, "the end");
                    at += count;
                }
                assert!(got == wanted);
            });
        }
    });
}

/// Who ends a connection says so, once, also when nobody listens. Who only goes is gone.
#[test]
fn the_end() {
    let place = Place::new();
    certificates(&place);
    let (server, client, mut underneath) = pair(&place);
    server.shutdown(Shutdown::Write).expect("shut");
    drop(server);
    let mut words = Vec::new();
    underneath.read_to_end(&mut words).expect("read");
    // One record of an alert, which is encrypted.
    assert_eq!((&words[..5], words.len()), (&[0x17, 3, 3, 0, 0x13][..], 24), "{words:x?}");
    assert_eq!(client.read(&mut [0; 9]).expect("the end"), 0);

    let (server, client, underneath) = pair(&place);
    underneath.shutdown(Shutdown::Both).expect("shut");
    assert_eq!(server.read(&mut [0; 9]).expect("the end"), 0);
    assert_eq!(server.read(&mut [0; 9]).expect("still"), 0);
    assert!(client.write(&[IoSlice::new(b"words")]).is_err());

    // After half a record nothing can follow, and saying goodbye does not take for ever.
    let (server, client, _) = pair(&place);
    client.set_timeout(Some(Duration::from_millis(200))).expect("set");
    let data = vec![1; 1 << 20];
    while client.write(&[IoSlice::new(&data)]).is_ok() {}
    let failed = client.write(&[IoSlice::new(b"words")]).expect_err("nobody reads");
    assert_eq!(failed.kind(), io::ErrorKind::BrokenPipe);
    let begun = Instant::now();
    drop(client);
    drop(server);
    assert!(begun.elapsed() < Duration::from_secs(3));
}

/// A wait that is answered in drops ends.
#[test]
fn drops() {
    let place = Place::new();
    certificates(&place);
    let (server, _client, mut underneath) = pair(&place);
    server.set_timeout(Some(Duration::from_millis(300))).expect("set");
    let waiting = std::thread::spawn(move || server.read(&mut [0; 9]).map_err(|error| error.kind()));
    for byte in [0x17, 3, 3, 0x40].into_iter().chain(std::iter::repeat_n(0, 200)) {
        if waiting.is_finished() {
            break;
        }
        underneath.write_all(&[byte]).expect("sent");
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = underneath.shutdown(Shutdown::Both);
    let ended = waiting.join().expect("no panic");
    assert!([Err(io::ErrorKind::TimedOut), Err(io::ErrorKind::WouldBlock)].contains(&ended), "{ended:?}");
}

#[test]
fn certificates_that_are_none() {
    let place = Place::new();
    let authority = certificates(&place);
    lvd!("create", place.path("disk"), "1M").ok();
    let serve = |directory: &str, more: &[&str]| {
        let mut command = crate::common::lvd();
        command.args(["serve", "--unix", "-", "--run", "true", "--tls-certificates"]).arg(place.path(directory));
        crate::common::run(command.args(more).arg(place.path("disk")))
    };
    serve("server", &[]).ok();
    serve("nowhere", &[]).fails(1, "nowhere/server-cert.pem: cannot read: no such file");
    lvd!("serve", "--tls-verify-peer", "--run", "true", place.path("disk")).fails(1, "--tls-certificates <DIR>");

    let copy = |directory: &str, change: &dyn Fn(&Path)| {
        fs::create_dir(place.path(directory)).expect("made");
        for file in ["ca-cert.pem", "server-cert.pem", "server-key.pem"] {
            fs::copy(place.path("server").join(file), place.path(directory).join(file)).expect("copied");
        }
        change(&place.path(directory));
    };
    let replace =
        |file: &'static str, with: Vec<u8>| move |directory: &Path| fs::write(directory.join(file), &with).unwrap();
    copy("no-ca", &|directory| fs::remove_file(directory.join("ca-cert.pem")).unwrap());
    serve("no-ca", &[]).ok();
    serve("no-ca", &["--tls-verify-peer"]).fails(1, "no-ca/ca-cert.pem: cannot read: no such file");
    copy("empty", &replace("server-cert.pem", Vec::new()));
    serve("empty", &[]).fails(1, "empty/server-cert.pem: no certificate in it");
    let other = KeyPair::generate().expect("a key").serialize_pem();
    copy("other", &replace("server-key.pem", other.clone().into_bytes()));
    serve("other", &[]).fails(1, "other/server-key.pem: keys may not be consistent");
    let torn = other.replace("-----END", "-----E N D");
    copy("torn", &replace("server-key.pem", torn.clone().into_bytes()));
    let said = serve("torn", &[]);
    assert!(other.lines().all(|line| !said.err.contains(line)), "{}", said.err);
    said.fails(1, "torn/server-key.pem: not a PEM file");
    copy("lists", &|directory| fs::write(directory.join("ca-crl.pem"), authority.issuer.pem()).unwrap());
    serve("lists", &["--tls-verify-peer"]).fails(1, "lists/ca-crl.pem: no revocation list in it");

    let client = |directory: &str| ClientTls::load(&place.path(directory)).expect_err("refused").to_string();
    assert!(client("no-ca").contains("no-ca/ca-cert.pem: cannot read"), "{}", client("no-ca"));
    fs::remove_file(place.path("client/client-key.pem")).expect("removed");
    assert!(client("client").contains("client/client-key.pem: cannot read"), "{}", client("client"));
    let tls: Arc<dyn StartTls> = Arc::new(ServerTls::load(&place.path("server"), false).expect("loaded"));
    assert_eq!(format!("{tls:?}"), "ServerTls { .. }");
}

/// A server whose clients must have certificates, and its URI for a client with those of a directory.
fn serve(place: &Place) -> Server {
    lvd!("create", place.path("disk.lvd"), "24M").ok();
    Server::start(place, &["disk.lvd", "--tls-certificates", "server", "--tls-verify-peer"])
}

fn uri(place: &Place, server: &Server, directory: &str) -> String {
    let (socket, directory) = (server.socket.display(), place.path(directory));
    format!("nbds+unix:///?socket={socket}&tls-certificates={}", directory.display())
}

#[test]
fn libnbd() {
    if !peers(&["nbdinfo", "nbdcopy"]) {
        return;
    }
    let place = Place::new();
    certificates(&place);
    let server = serve(&place);
    let info = tool!("nbdinfo", "--json", uri(&place, &server, "client")).ok().json();
    assert_eq!((&info["TLS"], &info["structured"]), (&true.into(), &true.into()), "{info}");
    let data = Random::new(6).disk(24 * MIB as usize);
    let file = place.file("in.raw", &data);
    tool!("nbdcopy", &file, uri(&place, &server, "client")).ok();
    tool!("nbdcopy", uri(&place, &server, "client"), place.path("out.raw")).ok();
    same(&fs::read(place.path("out.raw")).expect("read"), &data, "copied in and out");
    for directory in ["anonymous", "stranger"] {
        tool!("nbdinfo", uri(&place, &server, directory)).code(1);
    }
    let other = Place::new();
    certificates(&other);
    tool!("nbdinfo", uri(&other, &server, "client")).code(1);
    let plain = tool!("nbdinfo", "--size", server.uri());
    assert!(plain.code == Some(1) && !plain.err.is_empty(), "{plain:?}");
    let said = server.stop().code(0).err;
    // GnuTLS does not even show a certificate of an authority that the server does not name.
    assert!(said.contains("TLS: peer sent no certificates"), "{said}");
    same(&content(&place.path("disk.lvd")), &data, "copied in");
}

/// What `--run` is given is enough for a client of the same user.
#[test]
fn uris() {
    if !peers(&["nbdinfo"]) {
        return;
    }
    let place = Place::new();
    certificates(&place);
    lvd!("create", place.path("disk.lvd"), "24M").ok();
    for (listen, begins) in [("--unix=-", "nbds+unix:///?socket=/"), ("--tcp=127.0.0.1:0", "nbds://127.0.0.1:")] {
        let (directory, script) = (place.path("server"), "echo \"$uri\"; nbdinfo --size \"$uri\"");
        let run = lvd!("serve", listen, "--tls-certificates", directory, "--run", script, place.path("disk.lvd"));
        let text = run.ok().text();
        assert!(text.starts_with(begins) && text.ends_with("/server\n25165824\n"), "{text}");
    }
}

#[test]
fn qemu() {
    if !peers(&["qemu-img"]) {
        return;
    }
    let place = Place::new();
    certificates(&place);
    let server = serve(&place);
    // GnuTLS words for TLS 1.2 alone may follow the directory.
    let credentials = |place: &Place, directory: &str| {
        format!("tls-creds-x509,id=t,endpoint=client,dir={}", place.path(directory).display())
    };
    let path = server.socket.display();
    let image = format!("driver=nbd,server.type=unix,server.path={path},tls-creds=t,tls-hostname=localhost");
    let with = |place: &Place, directory: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new("qemu-img");
        let (verb, rest) = arguments.split_first().expect("a verb");
        crate::common::run(command.args([verb, "--object", &credentials(place, directory)]).args(rest))
    };
    let data = Random::new(7).disk(24 * MIB as usize);
    let (file, out) = (place.file("in.raw", &data), place.path("out.raw"));
    let (file, out) = (file.to_str().expect("text"), out.to_str().expect("text"));
    with(
        &place,
        "client",
        &["convert", "-n", "--image-opts", "--target-image-opts", &format!("driver=raw,file.filename={file}"), &image],
    )
    .ok();
    with(&place, "client", &["convert", "-O", "raw", "--image-opts", &image, out]).ok();
    same(&fs::read(out).expect("read"), &data, "converted in and out");
    let info = with(&place, "client", &["info", "--output=json", "--image-opts", &image]).ok().json();
    assert_eq!(info["virtual-size"], 24 * MIB);
    let old = with(&place, "client,priority=NORMAL:-VERS-ALL:+VERS-TLS1.2", &["info", "--image-opts", &image]);
    old.ok();
    let other = Place::new();
    certificates(&other);
    for (place, directory) in [(&place, "anonymous"), (&place, "stranger"), (&other, "client")] {
        let refused = with(place, directory, &["info", "--image-opts", &image]);
        assert!(refused.code == Some(1) && !refused.err.is_empty(), "{refused:?}");
    }
    let plain = tool!("qemu-img", "info", server.uri());
    assert!(plain.err.contains("TLS negotiation required"), "{plain:?}");
    server.stop().code(0);
}

/// The client that the command is: let in where the others are, and with one line where they are not.
#[test]
fn lvd_itself() {
    let place = Place::new();
    certificates(&place);
    let server = serve(&place);
    let data = Random::new(8).disk(24 * MIB as usize);
    lvd!("convert", "-f", "raw", "-O", "raw", place.file("in.raw", &data), uri(&place, &server, "client")).ok();
    let read = |uri: String| lvd!("read", "--reconnect", "0", "-f", "raw", uri, "0", "24M");
    same(&read(uri(&place, &server, "client")).ok().out, &data, "written and read");
    let other = Place::new();
    certificates(&other);
    let client = uri(&place, &server, "client");
    let bare = client.split('&').next().expect("something").to_owned();
    for (uri, why) in [
        (uri(&other, &server, "client"), "no connection: TLS: invalid peer certificate: "),
        (format!("{client}&tls-hostname=elsewhere"), "no connection: TLS: invalid peer certificate: "),
        (client.replace("nbds", "nbd").split('&').next().expect("something").to_owned(), "the server wants TLS"),
        (bare, "say with tls-certificates=DIR where the certificates of those are whom you trust"),
        (client.replace("/client", "/nowhere"), "/nowhere/ca-cert.pem: cannot read"),
    ] {
        read(uri).fails(1, why);
    }
    // In TLS 1.3 who is sent away for their certificate learns it with the first reply.
    for directory in ["anonymous", "stranger"] {
        read(uri(&place, &server, directory)).fails(1, "no connection: ");
    }
    drop(server);
    let plain = Server::start(&place, &["-f", "raw", "in.raw"]);
    read(uri(&place, &plain, "client")).fails(1, "no connection: the server has no TLS");
}
