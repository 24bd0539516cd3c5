//! Reaching Postgres by TLS, as each `sslmode` asks, with certificates made by `openssl`.

use std::{fs, path::Path, process::Command};

use rowcast::postgres::{ConnectError, DialError};

use crate::connect::{expect_login, expect_refusal};
use crate::harness::{
    cluster::{Cluster, Version},
    scratch,
};

/// What `openssl` is told after its name; files are in `folder`.
fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A certificate `{name}.crt` with its key, signed by the authority `ca`, which signs by `signing`.
fn certificate(folder: &Path, name: &str, subject: &str, key: &str, signing: &str) {
    openssl(
        folder,
        &format!(
            "req -new -nodes -newkey {key} -keyout {name}.key -subj /CN={subject} -out {name}.csr"
        ),
    );
    fs::write(
        folder.join("ext"),
        format!("basicConstraints=CA:FALSE\nsubjectAltName=DNS:{subject}\n"),
    )
    .expect("the folder is ours");
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext {signing} -out {name}.crt"
        ),
    );
}

async fn use_certificate(cluster: &Cluster, folder: &Path, name: &str) {
    for (kind, to) in [("crt", "server.crt"), ("key", "server.key")] {
        let content = fs::read(folder.join(format!("{name}.{kind}"))).expect("openssl made it");
        cluster.place(to, &content);
    }
    cluster.reload().await;
}

/// A server whose certificate is for `localhost`, and the folder of its authority.
async fn tls_cluster(version: Version) -> (Cluster, tempfile::TempDir) {
    let folder = scratch::folder("tls");
    openssl(
        folder.path(),
        "req -x509 -nodes -newkey rsa:2048 -keyout ca.key -subj /CN=ca -days 2 -out ca.crt",
    );
    openssl(
        folder.path(),
        "req -x509 -nodes -newkey rsa:2048 -keyout other.key -subj /CN=other -days 2 -out other.crt",
    );
    certificate(folder.path(), "rsa", "localhost", "rsa:2048", "-sha256");
    let cluster = Cluster::start(version, &[]).await;
    cluster.place("ca.crt", &fs::read(folder.path().join("ca.crt")).expect("openssl made it"));
    cluster.set(&[("ssl", "on"), ("ssl_ca_file", "ca.crt")]);
    cluster
        .psql("postgres", "create role scram login replication password 'pw'; create role cert login replication;")
        .await;
    use_certificate(&cluster, folder.path(), "rsa").await;
    cluster
        .set_hba(
            "local all all trust\nhost all postgres all trust\nhost all scram all scram-sha-256\n\
             hostssl all cert all cert\n",
        )
        .await;
    (cluster, folder)
}

#[tokio::test]
async fn each_sslmode_protects_as_much_as_libpq_says() {
    let (cluster, folder) = tls_cluster(Version::DEFAULT).await;
    let path = folder.path().display();
    let url = |host: &str, options: &str| {
        format!("postgres://postgres@{host}:{}/postgres?{options}", cluster.port())
    };
    for (host, options, encrypted) in [
        ("localhost", String::new(), true),
        ("localhost", "sslmode=disable".to_owned(), false),
        ("localhost", "sslmode=allow".to_owned(), true),
        ("localhost", "sslmode=require".to_owned(), true),
        ("127.0.0.1", "sslmode=require".to_owned(), true),
        ("127.0.0.1", format!("sslmode=require&sslrootcert={path}/ca.crt"), true),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={path}/ca.crt"), true),
        ("localhost", format!("sslmode=verify-full&sslrootcert={path}/ca.crt"), true),
        (
            "localhost",
            format!("hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={path}/ca.crt"),
            true,
        ),
        ("localhost", "sslmode=require&ssl_min_protocol_version=TLSv1.3".to_owned(), true),
        ("localhost", "sslmode=require&sslsni=0".to_owned(), true),
    ] {
        assert_eq!(expect_login(&url(host, &options)).await, encrypted, "{options}");
    }
    for (host, options) in [
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={path}/ca.crt")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={path}/other.crt")),
        ("localhost", format!("sslmode=verify-ca&sslrootcert={path}/other.crt")),
        ("localhost", format!("sslmode=require&sslrootcert={path}/other.crt")),
        ("localhost", "sslrootcert=system".to_owned()),
    ] {
        let error = expect_refusal(&url(host, &options)).await;
        assert!(
            matches!(error, ConnectError::Dial(DialError::Handshake { .. })),
            "{options}: {error:?}"
        );
        assert!(!error.is_transient(), "{options}");
        assert!(error.hint().is_some(), "{options}");
    }
    for options in ["sslmode=verify-ca&sslrootcert=/absent", "sslmode=require&sslrootcert=/absent"]
    {
        let error = expect_refusal(&url("localhost", options)).await;
        assert!(matches!(error, ConnectError::Dial(DialError::Tls(_))), "{options}: {error:?}");
    }

    cluster.set_hba("local all all trust\nhostnossl all all all trust\n").await;
    assert!(!expect_login(&url("localhost", "")).await);
    let error = expect_refusal(&url("localhost", "sslmode=require")).await;
    assert!(matches!(error, ConnectError::NotAdmitted { .. }), "{error:?}");

    cluster.set_hba("local all all trust\nhost all all all trust\n").await;
    // Of X.509's first version, which rustls does not read.
    openssl(
        folder.path(),
        "req -new -nodes -newkey rsa:2048 -keyout v1.key -subj /CN=localhost -out v1.csr",
    );
    openssl(
        folder.path(),
        "x509 -req -in v1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out v1.crt",
    );
    use_certificate(&cluster, folder.path(), "v1").await;
    assert!(!expect_login(&url("localhost", "")).await);
    let error = expect_refusal(&url("localhost", "sslmode=require")).await;
    assert!(matches!(error, ConnectError::Dial(DialError::Handshake { .. })), "{error:?}");

    cluster.set(&[("ssl", "off")]);
    cluster.reload().await;
    assert!(!expect_login(&url("localhost", "")).await);
    let error = expect_refusal(&url("localhost", "sslmode=require")).await;
    assert!(matches!(error, ConnectError::Dial(DialError::NoTls { .. })), "{error:?}");
}

#[tokio::test]
async fn tls_without_asking_first_works_where_the_server_knows_it() {
    let (cluster, folder) = tls_cluster(Version::V17).await;
    let (port, path) = (cluster.port(), folder.path().display());
    let options = format!("sslnegotiation=direct&sslmode=verify-full&sslrootcert={path}/ca.crt");
    let bound = "scram:pw@localhost";
    for login in ["postgres@localhost", bound] {
        assert!(expect_login(&format!("postgres://{login}:{port}/postgres?{options}")).await);
    }
}

#[tokio::test]
async fn a_servers_own_certificate_may_be_the_root_even_if_it_is_an_authoritys() {
    let (cluster, folder) = tls_cluster(Version::DEFAULT).await;
    openssl(
        folder.path(),
        "req -x509 -nodes -newkey rsa:2048 -keyout own.key -subj /CN=localhost -days 2 -out own.crt \
         -addext subjectAltName=DNS:localhost",
    );
    use_certificate(&cluster, folder.path(), "own").await;
    let url = |host: &str, mode: &str, root: &str| {
        let (port, path) = (cluster.port(), folder.path().display());
        format!(
            "postgres://postgres@{host}:{port}/postgres?sslmode={mode}&sslrootcert={path}/{root}.crt"
        )
    };
    assert!(expect_login(&url("localhost", "verify-full", "own")).await);
    assert!(expect_login(&url("127.0.0.1", "verify-ca", "own")).await);
    for (host, mode, root) in
        [("127.0.0.1", "verify-full", "own"), ("localhost", "verify-ca", "ca")]
    {
        let error = expect_refusal(&url(host, mode, root)).await;
        assert!(matches!(error, ConnectError::Dial(DialError::Handshake { .. })), "{error:?}");
    }
}

#[tokio::test]
async fn scram_is_bound_to_the_certificate_whatever_signed_it() {
    let (cluster, folder) = tls_cluster(Version::DEFAULT).await;
    let url = format!(
        "postgres://scram:pw@localhost:{}/postgres?sslmode=require&channel_binding=",
        cluster.port()
    );
    for (name, key, signing) in [
        ("sha256", "rsa:2048", "-sha256"),
        ("sha384", "rsa:2048", "-sha384"),
        ("sha512", "rsa:2048", "-sha512"),
        ("sha1", "rsa:2048", "-sha1"),
        ("pss", "rsa:2048", "-sha512 -sigopt rsa_padding_mode:pss"),
        ("ec", "ec -pkeyopt ec_paramgen_curve:prime256v1", "-sha384"),
    ] {
        certificate(folder.path(), name, "localhost", key, signing);
        use_certificate(&cluster, folder.path(), name).await;
        for binding in ["require", "prefer", "disable"] {
            assert!(expect_login(&format!("{url}{binding}")).await, "{name}");
        }
    }
    // ECDSA's own signature, which the authority's RSA key cannot make.
    openssl(
        folder.path(),
        "req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:secp384r1 -sha384 -keyout ecdsa.key \
         -subj /CN=localhost -days 2 -out ecdsa.crt",
    );
    use_certificate(&cluster, folder.path(), "ecdsa").await;
    assert!(expect_login(&format!("{url}require")).await);
}

#[tokio::test]
async fn a_client_certificate_logs_in() {
    let (cluster, folder) = tls_cluster(Version::DEFAULT).await;
    certificate(folder.path(), "client", "cert", "rsa:2048", "-sha256");
    let (port, path) = (cluster.port(), folder.path().display());
    let url = format!("postgres://cert@localhost:{port}/postgres?sslmode=require");
    assert!(
        expect_login(&format!("{url}&sslcert={path}/client.crt&sslkey={path}/client.key")).await
    );
    let error = expect_refusal(&url).await;
    assert!(matches!(error, ConnectError::NotAdmitted { .. }), "{error:?}");
    let error =
        expect_refusal(&format!("{url}&sslcert={path}/client.crt&sslkey={path}/ca.crt")).await;
    assert!(matches!(error, ConnectError::Dial(DialError::Tls(_))), "{error:?}");
}
