//! TLS as the `sslmode`s of libpq ask for it.

mod end_point;
mod verifier;

pub(crate) use end_point::tls_server_end_point;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};

use super::dsn::{RootCert, Ssl, SslMode, SslNegotiation};
use verifier::{Accept, Verifier};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("certificates cannot be read from {}", path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{} holds no certificate", path.display())]
    Empty { path: PathBuf },
    #[error("the private key cannot be read from {}", path.display())]
    Key { path: PathBuf, source: pem::Error },
    #[error("sslmode={mode} needs the certificate of an authority")]
    NoRoots { mode: &'static str },
    #[error("the system has no trusted roots")]
    NoSystemRoots { source: Option<rustls_native_certs::Error> },
    #[error("a root certificate in {} cannot be used", path.display())]
    Root { path: PathBuf, source: rustls::Error },
    #[error("the certificates of the authority cannot be used")]
    Verifier { source: rustls::client::VerifierBuilderError },
    #[error("the client certificate {} and its key cannot be used", path.display())]
    ClientCert { path: PathBuf, source: rustls::Error },
    #[error("this build of rustls cannot speak the TLS version asked for")]
    Version { source: rustls::Error },
}

impl TlsError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            TlsError::NoRoots { .. } => Some(
                "give sslrootcert=/path/to/ca.pem, or sslrootcert=system for a certificate of a \
                 public authority, or put it at ~/.postgresql/root.crt"
                    .to_owned(),
            ),
            TlsError::Key { .. } => {
                Some("sslkey should be an unencrypted private key in PEM form".to_owned())
            }
            TlsError::Pem { .. } | TlsError::Empty { .. } | TlsError::Root { .. } => {
                Some("the file should hold certificates in PEM form".to_owned())
            }
            TlsError::NoSystemRoots { .. } => {
                Some("install the ca-certificates package, or give sslrootcert a path".to_owned())
            }
            TlsError::Verifier { .. } | TlsError::ClientCert { .. } | TlsError::Version { .. } => {
                None
            }
        }
    }
}

/// The rustls configuration for a server that should be trusted as `ssl` says.
pub(crate) fn client_config(ssl: &Ssl) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = if ssl.tls13_only { &[&TLS13][..] } else { &[&TLS13, &TLS12][..] };
    let verifier = verifier(ssl, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|source| TlsError::Version { source })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match client_cert(ssl)? {
        None => builder.with_no_client_auth(),
        Some((path, chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|source| TlsError::ClientCert { path, source })?,
    };
    config.enable_sni = ssl.sni;
    if ssl.negotiation == SslNegotiation::Direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(config)
}

fn verifier(ssl: &Ssl, provider: &Arc<CryptoProvider>) -> Result<Verifier, TlsError> {
    let default_file = ssl.folder.as_ref().map(|folder| folder.join("root.crt"));
    let roots = match &ssl.root_cert {
        Some(roots) => Some(roots.clone()),
        None => default_file.filter(|path| path.exists()).map(RootCert::File),
    };
    let accept = match (ssl.mode, &roots) {
        // libpq does the same: whoever went to the length of giving roots
        // wants them used.
        (SslMode::Require, Some(_)) | (SslMode::VerifyCa, _) => Accept::AnyName,
        (SslMode::VerifyFull, _) => Accept::ThisName,
        (SslMode::Disable | SslMode::Prefer | SslMode::Require, _) => {
            return Ok(Verifier::none(provider));
        }
    };
    let store = match roots {
        Some(RootCert::File(path)) => roots_of_file(&path)?,
        Some(RootCert::System) => system_roots()?,
        None => {
            let mode = if accept == Accept::ThisName { "verify-full" } else { "verify-ca" };
            return Err(TlsError::NoRoots { mode });
        }
    };
    Verifier::new(store, accept, provider).map_err(|source| TlsError::Verifier { source })
}

type Roots = (RootCertStore, Vec<CertificateDer<'static>>);

fn roots_of_file(path: &Path) -> Result<Roots, TlsError> {
    let certificates = read_certificates(path)?;
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store
            .add(certificate.clone())
            .map_err(|source| TlsError::Root { path: path.to_owned(), source })?;
    }
    Ok((store, certificates))
}

fn system_roots() -> Result<Roots, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // Some of a system's roots are too old to parse; the rest still serve.
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        return Err(TlsError::NoSystemRoots { source: found.errors.into_iter().next() });
    }
    Ok((store, Vec::new()))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsError::Pem { path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned() });
    }
    Ok(certificates)
}

type ClientCert = (PathBuf, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_cert(ssl: &Ssl) -> Result<Option<ClientCert>, TlsError> {
    let default = |name| ssl.folder.as_ref().map(|folder| folder.join(name));
    let cert = match &ssl.cert {
        Some(path) => path.clone(),
        None => match default("postgresql.crt").filter(|path| path.exists()) {
            Some(path) => path,
            None => return Ok(None),
        },
    };
    let Some(key) = ssl.key.clone().or_else(|| default("postgresql.key")) else {
        let source = pem::Error::Io(io::ErrorKind::NotFound.into());
        return Err(TlsError::Key { path: "~/.postgresql/postgresql.key".into(), source });
    };
    let chain = read_certificates(&cert)?;
    let key = PrivateKeyDer::from_pem_file(&key)
        .map_err(|source| TlsError::Key { path: key.clone(), source })?;
    Ok(Some((cert, chain, key)))
}
