use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Judges a server's certificate as libpq's `sslmode` says. That the server
/// holds the certificate's key is checked in every mode.
#[derive(Debug)]
pub(super) struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    chain: Option<Chain>,
}

#[derive(Debug)]
struct Chain {
    verifier: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
    accept: Accept,
}

/// Whose certificate is accepted, once its chain leads to a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accept {
    AnyName,
    ThisName,
}

impl Verifier {
    /// Accepts every certificate.
    pub(super) fn none(provider: &CryptoProvider) -> Verifier {
        Verifier { algorithms: provider.signature_verification_algorithms, chain: None }
    }

    pub(super) fn new(
        (store, roots): (RootCertStore, Vec<CertificateDer<'static>>),
        accept: Accept,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Verifier, VerifierBuilderError> {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
                .build()?;
        Ok(Verifier {
            algorithms: provider.signature_verification_algorithms,
            chain: Some(Chain { verifier, roots, accept }),
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        let verdict = chain.verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let error = match verdict {
            Ok(verified) => return Ok(verified),
            Err(Error::InvalidCertificate(error)) => error,
            Err(error) => return Err(error),
        };
        match error {
            // The name is checked last, so the chain is good.
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
                if chain.accept == Accept::AnyName =>
            {
                Ok(ServerCertVerified::assertion())
            }
            // The server's own self-signed certificate as root, as the manual
            // of Postgres makes one. webpki takes no authority's certificate
            // for a server's, which is an `Other` error and comes after the
            // dates were found good.
            CertificateError::Other(_) if chain.roots.iter().any(|root| root == end_entity) => {
                if chain.accept == Accept::ThisName {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            error => Err(error.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
