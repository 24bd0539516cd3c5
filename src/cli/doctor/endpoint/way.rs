//! What the way to the endpoint means: DNS, TCP, TLS.

use std::io;

use crate::cli::doctor::report::Check;
use crate::deliver::pusher::{Reach, ReachEnd, TlsProblem};

/// A line for each step that was taken.
pub(super) fn checks(way: &Reach) -> Vec<Check> {
    let Reach { host, port, end, is_proxy } = way;
    let option = if *is_proxy { "`proxy`" } else { "`url`" };
    let who = if *is_proxy { "the proxy" } else { "the endpoint" };
    match end {
        ReachEnd::NoAddress(error) => vec![Check::fails(
            "address",
            format!("{host} has no address: {}", root(error)),
            format!("the host of {option} in [pusher], or this machine's DNS: getent hosts {host}"),
        )],
        ReachEnd::NoConnection(failed) => {
            let tried = failed.iter().map(|(address, error)| format!("{address}: {}", root(error)));
            let tried = tried.collect::<Vec<_>>().join("; ");
            let refuses = failed.iter().any(|(_, e)| e.kind() == io::ErrorKind::ConnectionRefused);
            let fix = match refuses {
                true => format!(
                    "nothing listens at port {port}: start {who}, or mend the port of {option} in \
                     [pusher]; within a container 127.0.0.1 is the container itself"
                ),
                false => format!(
                    "let the firewalls between this machine and {host} pass port {port}, or mend \
                     {option} in [pusher]"
                ),
            };
            vec![Check::fails("connection", format!("no connection to {tried}"), fix)]
        }
        ReachEnd::NoTls { address, error } => vec![
            Check::holds("connection", format!("{address} takes connections")),
            Check::fails("TLS", format!("with {host}: {}", root(error)), tls_fix(error, way)),
        ],
        ReachEnd::Reached { address, connected_in, tls } => {
            let micros = connected_in.as_micros();
            let took = format!("{}.{} ms", micros / 1000, micros % 1000 / 100);
            let through = if *is_proxy { ", a proxy" } else { "" };
            let found = format!("{address}{through}, in {took}");
            let mut checks = vec![Check::holds("connection", found)];
            if let Some(version) = tls {
                let version = version.replace('_', ".").replace("TLSv", "TLS ");
                checks.push(Check::holds("TLS", format!("{version}, with {host}")));
            }
            checks
        }
    }
}

fn tls_fix(error: &io::Error, way: &Reach) -> String {
    let Reach { host, port, .. } = way;
    match TlsProblem::of(error) {
        TlsProblem::UnknownAuthority => {
            "`ca_file` in [pusher]: the PEM file of the authority that \
                                         has signed its certificate"
                .to_owned()
        }
        TlsProblem::OtherName => {
            "`url` in [pusher] must have the host for which the certificate was made".to_owned()
        }
        TlsProblem::Expired => {
            "renew the server's certificate, or set this machine's clock".to_owned()
        }
        TlsProblem::Plain => {
            format!("url = \"http://{host}:{port}\" in [pusher]: what answers there speaks no TLS")
        }
        TlsProblem::Other => {
            format!("see what it shows: openssl s_client -connect {host}:{port}")
        }
    }
}

/// The innermost cause: what stands above it says only who met it.
fn root(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        // "Connection refused (os error 111)"
        Some(_) => text.split(" (os error").next().unwrap_or(&text).to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(end: ReachEnd) -> Reach {
        Reach { host: "ws.example".into(), port: 443, is_proxy: false, end }
    }

    fn fix_of_tls(error: rustls::Error) -> String {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        tls_fix(&error, &way(ReachEnd::NoAddress(io::ErrorKind::NotFound.into())))
    }

    #[test]
    fn what_is_wrong_with_a_certificate_says_what_to_change() {
        use rustls::{CertificateError, Error, InvalidMessage};

        for (error, fix) in [
            (CertificateError::UnknownIssuer.into(), "`ca_file`"),
            (CertificateError::NotValidForName.into(), "the host for which"),
            (CertificateError::Expired.into(), "renew"),
            (
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                "url = \"http://ws.example:443\"",
            ),
            (Error::DecryptError, "openssl s_client -connect ws.example:443"),
        ] {
            let said = fix_of_tls(error);
            assert!(said.contains(fix), "{said}");
        }
    }
}
