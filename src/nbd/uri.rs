//! Where an export is, as an NBD URI says it (`doc/uri.md` of the NBD project).

use super::MAX_STRING;
use crate::error::{Error, Result};
use crate::units::escaped;
use std::fmt;
use std::path::PathBuf;

/// The port that IANA has for the protocol.
pub const PORT: u16 = 10809;

/// An export of a server: `nbd://HOST[:PORT]/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`, and the same with `nbds` for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// Where the server listens.
    pub place: Place,
    /// The export's name; may be empty.
    pub export: String,
    /// How the connection is encrypted, if it is.
    pub tls: Option<UriTls>,
}

/// What a URI says of TLS, with the parameters of libnbd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UriTls {
    /// `tls-certificates`: the directory of the certificates.
    pub certificates: Option<PathBuf>,
    /// `tls-hostname`: the name that the server's certificate must bear, if it is not the host's.
    pub hostname: Option<String>,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Host, without the brackets of an IPv6 address, and port.
    Tcp(String, u16),
    /// The path of a socket.
    Unix(PathBuf),
}

impl Uri {
    /// Whether `name` is to be taken for a URI rather than for a file: it begins with `nbd:`, `nbds:` or the like.
    pub fn is_one(name: &str) -> bool {
        let scheme = name.split_once(':').map_or("", |(scheme, _)| scheme);
        scheme.split('+').next().is_some_and(|first| first == "nbd" || first == "nbds")
    }

    /// Reads a URI.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is none, or one with parts that are not known here.
    pub fn parse(text: &str) -> Result<Uri> {
        let wrong = |why: &str| Error::Invalid(format!("{}: {why}", text.escape_debug()));
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("not an NBD URI: it has no ://"))?;
        let (tls, unix) = match scheme {
            "nbd" => (false, false),
            "nbds" => (true, false),
            "nbd+unix" => (false, true),
            "nbds+unix" => (true, true),
            _ => return Err(wrong("NBD URIs begin with nbd, nbds, nbd+unix or nbds+unix")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        let decoded = |text: &str| unescaped(text).ok_or_else(|| wrong("has a % that is followed by no byte of UTF-8"));
        let mut tls = tls.then(UriTls::default);
        let mut socket = None;
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match (parameter.split_once('='), &mut tls) {
                (Some(("socket", path)), _) => socket = Some(PathBuf::from(decoded(path)?)),
                (Some(("tls-certificates", path)), Some(tls)) => tls.certificates = Some(decoded(path)?.into()),
                (Some(("tls-hostname", name)), Some(tls)) => tls.hostname = Some(decoded(name)?),
                _ => return Err(wrong(&format!("{parameter:?} is not known here"))),
            }
        }
        let place = match (unix, socket) {
            (true, Some(path)) if authority.is_empty() => Place::Unix(path),
            (true, Some(_)) => return Err(wrong("a Unix socket has no host")),
            (true, None) => return Err(wrong("?socket=PATH is missing")),
            (false, Some(_)) => return Err(wrong("?socket= needs nbd+unix")),
            (false, None) => {
                let (host, port) = host_and_port(authority).ok_or_else(|| wrong("has no host, or no good port"))?;
                Place::Tcp(decoded(host)?, port)
            }
        };
        let export = decoded(export)?;
        if export.len() > MAX_STRING {
            return Err(wrong("the export's name is too long"));
        }
        Ok(Uri { place, export, tls })
    }

    /// The name that the server's certificate must bear.
    pub fn server_name(&self) -> &str {
        let named = self.tls.as_ref().and_then(|tls| tls.hostname.as_deref());
        named.unwrap_or(match &self.place {
            Place::Tcp(host, _) => host,
            Place::Unix(_) => "localhost",
        })
    }
}

fn host_and_port(authority: &str) -> Option<(&str, u16)> {
    if authority.contains('@') {
        // Names of users have no meaning here, and passwords none at all.
        return None;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, if port.is_empty() { "" } else { port.strip_prefix(':')? })
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let port = if port.is_empty() { PORT } else { port.parse().ok()? };
    (!host.is_empty()).then_some((host, port))
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, export) = (if self.tls.is_some() { "nbds" } else { "nbd" }, escaped(&self.export, ""));
        let mut parameters = Vec::new();
        match &self.place {
            Place::Tcp(host, port) if host.contains(':') => write!(f, "{scheme}://[{host}]:{port}/{export}")?,
            Place::Tcp(host, port) => write!(f, "{scheme}://{}:{port}/{export}", escaped(host, ""))?,
            Place::Unix(path) => {
                write!(f, "{scheme}+unix:///{export}")?;
                parameters.push(("socket", path.to_string_lossy().into_owned()));
            }
        }
        if let Some(UriTls { certificates, hostname }) = &self.tls {
            let directory = certificates.as_ref().map(|directory| directory.to_string_lossy().into_owned());
            parameters.extend(directory.map(|directory| ("tls-certificates", directory)));
            parameters.extend(hostname.clone().map(|name| ("tls-hostname", name)));
        }
        for ((name, value), before) in parameters.iter().zip(std::iter::once('?').chain(std::iter::repeat('&'))) {
            write!(f, "{before}{name}={}", escaped(value, "/"))?;
        }
        Ok(())
    }
}

/// The text that was escaped; `None` if it was none.
fn unescaped(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, more) = rest.split_first_chunk::<2>()?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = more;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_others_write_is_understood() {
        for (text, tls, place, export) in [
            ("nbd://localhost", false, Place::Tcp("localhost".into(), PORT), ""),
            ("nbd://localhost/", false, Place::Tcp("localhost".into(), PORT), ""),
            ("nbds://a.example:99/a%2Fb/c", true, Place::Tcp("a.example".into(), 99), "a/b/c"),
            ("nbd://[::1]:10/%C3%A4", false, Place::Tcp("::1".into(), 10), "ä"),
            ("nbd+unix:///?socket=/run/a%20b", false, Place::Unix("/run/a b".into()), ""),
            ("nbds+unix:///x?socket=s", true, Place::Unix("s".into()), "x"),
        ] {
            let tls = tls.then(UriTls::default);
            assert_eq!(Uri::parse(text).unwrap(), Uri { place, export: export.into(), tls }, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "nbd:unix:/x",
            "http://a/",
            "nbd:///x",
            "nbd://a:b/",
            "nbd://a:70000/",
            "nbd://[::1/",
            "nbd://a/%2",
            "nbd://a/%ff",
            "nbd+unix:///x",
            "nbd+unix://host/x?socket=y",
            "nbd://a/?socket=y",
            "nbd://a/?tls=1",
            "nbd://user@a/",
            "nbd+vsock://1/",
            "nbd://a/?tls-hostname=b",
        ] {
            let error = Uri::parse(text).expect_err(text).to_string();
            assert!(error.starts_with(text) && !error.contains('\n'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(
            export in "\\PC{0,20}",
            path in "/[^\\x00]{1,30}",
            unix: bool,
            port: u16,
            tls: bool,
            directory in prop::option::of("/[^\\x00]{1,30}"),
            hostname in prop::option::of("\\PC{1,20}"),
        ) {
            let place = if unix { Place::Unix(path.into()) } else { Place::Tcp("::1".into(), port) };
            let tls = tls.then(|| UriTls { certificates: directory.map(PathBuf::from), hostname });
            let uri = Uri { place, export, tls };
            prop_assert_eq!(Uri::parse(&uri.to_string()).unwrap(), uri);
        }
    }
}
