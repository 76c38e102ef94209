//! A directory of certificates, with the names of its files that QEMU, libnbd and nbdkit share.

use super::invalid;
use crate::error::{Error, Result};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, ConfigBuilder, ConfigSide, RootCertStore, ServerConfig, WantsVersions};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) fn server(directory: &Path, verify_peer: bool) -> Result<ServerConfig> {
    let builder = versions(ServerConfig::builder_with_provider(provider()));
    let builder = if verify_peer {
        let Authority { path, roots, revoked } = Authority::load(directory)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).with_crls(revoked);
        let verifier = verifier.enforce_revocation_expiration().build().map_err(|error| invalid(&path, error))?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let Identity { chain, key, path } = Identity::load(directory, "server")?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| invalid(&path, error))?;
    // Every client shows its certificate anew, and nothing is kept of those that are gone.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

pub(super) fn client(directory: &Path) -> Result<ClientConfig> {
    let builder = versions(ClientConfig::builder_with_provider(provider()));
    let Authority { path, roots, revoked } = Authority::load(directory)?;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).with_crls(revoked);
    let verifier = verifier.enforce_revocation_expiration().build().map_err(|error| invalid(&path, error))?;
    let builder = builder.with_webpki_verifier(verifier);
    let has_one = ["client-cert.pem", "client-key.pem"].iter().any(|name| directory.join(name).exists());
    let mut config = if has_one {
        let Identity { chain, key, path } = Identity::load(directory, "client")?;
        builder.with_client_auth_cert(chain, key).map_err(|error| invalid(&path, error))?
    } else {
        builder.with_no_client_auth()
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn versions<Side: ConfigSide>(
    builder: ConfigBuilder<Side, WantsVersions>,
) -> ConfigBuilder<Side, rustls::WantsVerifier> {
    builder.with_safe_default_protocol_versions().expect("the provider has ciphers for both versions")
}

/// Whose certificates are trusted.
struct Authority {
    path: PathBuf,
    roots: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl Authority {
    fn load(directory: &Path) -> Result<Authority> {
        let path = directory.join("ca-cert.pem");
        let mut roots = RootCertStore::empty();
        for certificate in items(&path, "certificate")? {
            roots.add(certificate).map_err(|error| invalid(&path, error))?;
        }
        let list = directory.join("ca-crl.pem");
        let revoked = if list.exists() { items(&list, "revocation list")? } else { Vec::new() };
        Ok(Authority { path, roots: Arc::new(roots), revoked })
    }
}

/// A certificate, those between it and its authority, and its key.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// The file of the key.
    path: PathBuf,
}

impl Identity {
    fn load(directory: &Path, role: &str) -> Result<Identity> {
        let chain = items(&directory.join(format!("{role}-cert.pem")), "certificate")?;
        let path = directory.join(format!("{role}-key.pem"));
        let key = items(&path, "private key that is not encrypted")?.swap_remove(0);
        Ok(Identity { chain, key, path })
    }
}

/// What a PEM file holds of one kind: at least one. Of what is wrong with the file nothing is quoted, as it may be a key.
fn items<T: PemObject>(path: &Path, kind: &str) -> Result<Vec<T>> {
    let text = fs::read(path).map_err(|error| Error::io(&path.display().to_string(), "cannot read", error))?;
    let items: std::result::Result<Vec<T>, pem::Error> = T::pem_slice_iter(&text).collect();
    let items = items.map_err(|_| invalid(path, "not a PEM file"))?;
    if items.is_empty() { Err(invalid(path, format!("no {kind} in it"))) } else { Ok(items) }
}
