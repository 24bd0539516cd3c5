use super::*;

fn resolve(text: &str, env: &[(&str, &str)]) -> Result<Target, DsnError> {
    let dsn: Dsn = text.parse()?;
    dsn.resolve(&|variable| {
        env.iter().find(|(name, _)| *name == variable).map(|(_, value)| (*value).to_owned())
    })
}

/// What a test says about a target: `user@host,host/database`, then what else
/// was given and is not the default.
fn describe(target: &Target) -> String {
    let hosts: Vec<_> = target.hosts.iter().map(Host::to_string).collect();
    let mut text = format!("{}@{}/{}", target.user, hosts.join(","), target.database);
    if let Some(password) = target.password(&target.hosts[0]) {
        text.push_str(&format!(" password={}", password.expose()));
    }
    if let Some(options) = &target.options {
        text.push_str(&format!(" options={options}"));
    }
    if target.ssl.mode != SslMode::Prefer {
        text.push_str(&format!(" {:?}", target.ssl.mode));
    }
    match &target.ssl.root_cert {
        Some(RootCert::File(path)) => text.push_str(&format!(" roots={}", path.display())),
        Some(RootCert::System) => text.push_str(" roots=system"),
        None => {}
    }
    text
}

#[test]
fn a_dsn_names_the_hosts_and_the_login() {
    for (text, expected) in [
        ("postgres://u@h/d", "u@h:5432/d"),
        ("postgresql://u:p@h:5433/d", "u@h:5433/d password=p"),
        ("host=h port=5433 user=u dbname=d password=p", "u@h:5433/d password=p"),
        ("postgres://u@h", "u@h:5432/u"),
        ("postgres://u@/d", "u@/var/run/postgresql/.s.PGSQL.5432,localhost:5432/d"),
        ("postgres://u@:5433/d", "u@/var/run/postgresql/.s.PGSQL.5433,localhost:5433/d"),
        ("postgres://u@%2Frun%2Fpg:5433/d", "u@/run/pg/.s.PGSQL.5433/d"),
        ("user=u host=/run/pg dbname=d", "u@/run/pg/.s.PGSQL.5432/d"),
        ("postgres://u@[::1]:5433/d", "u@[::1]:5433/d"),
        ("postgres://u@a:1,b,c:3/d", "u@a:1,b:5432,c:3/d"),
        ("user=u host=a,b,c port=1 dbname=d", "u@a:1,b:1,c:1/d"),
        ("user=u host=a,b port=1, dbname=d", "u@a:1,b:5432/d"),
        ("user=u hostaddr=10.0.0.1 dbname=d", "u@10.0.0.1:5432/d"),
        ("user=u host=db hostaddr=10.0.0.1 dbname=d", "u@db:5432/d"),
        ("user=u hostaddr=::1 dbname=d", "u@[::1]:5432/d"),
        ("user=u host='' dbname=d", "u@/var/run/postgresql/.s.PGSQL.5432,localhost:5432/d"),
        ("postgres://u@h/d?user=v&dbname=e", "v@h:5432/e"),
        ("postgres://u@h/d?options=-c%20geqo%3Doff", "u@h:5432/d options=-c geqo=off"),
        ("postgres://u@h/d?sslmode=disable", "u@h:5432/d Disable"),
        ("postgres://u@h/d?sslmode=allow", "u@h:5432/d"),
        (
            "postgres://u@h/d?sslmode=verify-ca&sslrootcert=/ca.pem",
            "u@h:5432/d VerifyCa roots=/ca.pem",
        ),
        ("postgres://u@h/d?sslrootcert=system", "u@h:5432/d VerifyFull roots=system"),
        ("postgres://u@h/d?ssl=true", "u@h:5432/d Require"),
        (
            "postgres://u@h/d?application_name=x&client_encoding=LATIN1&gssencmode=prefer\
             &krbsrvname=postgres&sslcompression=0&keepalives=1&keepalives_idle=5\
             &keepalives_interval=5&keepalives_count=3&tcp_user_timeout=3000&connect_timeout=3\
             &channel_binding=prefer&target_session_attrs=read-write&sslnegotiation=postgres\
             &load_balance_hosts=disable&sslsni=1&ssl_min_protocol_version=TLSv1.2",
            "u@h:5432/d",
        ),
    ] {
        let target = resolve(text, &[]).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(describe(&target), expected, "{text}");
    }
}

#[test]
fn a_dsn_that_libpq_would_refuse_is_refused() {
    for (text, expected) in [
        ("postgres://h?sslmod=require", r#""sslmod" is not a connection option of libpq"#),
        (
            "host=h sslmode=yes",
            "sslmode should be disable, allow, prefer, require, verify-ca or verify-full",
        ),
        (
            "postgres://h:99999",
            "port should be a number from 1 to 65535; in a URL, write : / @ of a password as %3A %2F %40",
        ),
        (
            "postgres://h:0",
            "port should be a number from 1 to 65535; in a URL, write : / @ of a password as %3A %2F %40",
        ),
        ("hostaddr=db", "hostaddr should be an IP address"),
        ("host=a,b port=1,2,3", "2 hosts are given, but 3 of port"),
        ("host=a,b hostaddr=10.0.0.1", "2 hosts are given, but 1 of hostaddr"),
        ("connect_timeout=soon", "connect_timeout should be a number of seconds"),
        (
            "host=h replication=database",
            "the connection option replication is not supported: rowcast chooses for each connection itself",
        ),
        (
            "service=shop",
            "the connection option service is not supported: write the options of the service here",
        ),
        (
            "gssencmode=require",
            "gssencmode should be disable or prefer, since GSSAPI encryption is not supported",
        ),
        (
            "sslmode=require sslrootcert=system",
            "sslmode should be verify-full when sslrootcert is system",
        ),
        (
            "sslnegotiation=direct",
            "sslmode should be require, verify-ca or verify-full when sslnegotiation is direct",
        ),
        ("mysql://h", "a connection URL begins with postgres:// or postgresql://"),
    ] {
        let error = resolve(text, &[]).expect_err(text);
        assert_eq!(error.to_string(), expected, "{text}");
    }
}

#[test]
fn no_error_and_no_debug_output_shows_the_password() {
    for text in [
        "postgres://u:hun/ter2@h/d",
        "postgres://u:hun%ter2@h/d",
        "postgres://u:hunter2@h:x/d",
        "password=hunter2 hunter2",
        "password='hunter2",
    ] {
        let error = text.parse::<Dsn>().expect_err(text);
        assert!(!format!("{error} {error:?}").contains("ter2"), "{text}: {error}");
    }
    let dsn: Dsn = "postgres://u:hunter2@h/d".parse().unwrap();
    assert!(!format!("{dsn:?}").contains("hunter2"));
    assert!(!format!("{:?}", dsn.resolve(&|_| None).unwrap()).contains("hunter2"));
}

#[test]
fn the_environment_fills_in_only_what_the_dsn_leaves_out() {
    const ENV: &[(&str, &str)] = &[
        ("PGHOST", "env.example"),
        ("PGPORT", "6000"),
        ("PGUSER", "env_user"),
        ("PGDATABASE", "env_db"),
        ("PGPASSWORD", "env_password"),
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", "/env.pem"),
        ("PGAPPNAME", "env_app"),
    ];
    for (text, expected) in [
        ("", "env_user@env.example:6000/env_db password=env_password VerifyFull roots=/env.pem"),
        (
            "postgres://u:p@h:1/d?sslmode=require&sslrootcert=/ca.pem",
            "u@h:1/d password=p Require roots=/ca.pem",
        ),
        ("postgres://u:p@h/d?sslmode=disable", "u@h:6000/d password=p Disable roots=/env.pem"),
        // A list of ports that has empty places is not silent.
        (
            "postgres://u:p@a:1,b/d?sslmode=disable",
            "u@a:1,b:5432/d password=p Disable roots=/env.pem",
        ),
    ] {
        assert_eq!(describe(&resolve(text, ENV).unwrap()), expected, "{text}");
    }
    assert_eq!(describe(&resolve("user=u host=h", &[("PGPORT", "")]).unwrap()), "u@h:5432/u");
    let bad = resolve("user=u", &[("PGSSLMODE", "on")]).unwrap_err();
    assert!(matches!(bad, DsnError::Invalid { key: "sslmode", .. }));
    let elsewhere = resolve("user=u host=h", &[("PGHOSTADDR", "10.0.0.1")]).unwrap();
    assert_eq!(elsewhere.hosts[0].address, Address::Name("h".to_owned()));
}

#[test]
fn the_password_file_of_the_home_folder_is_the_last_resort() {
    use std::os::unix::fs::OpenOptionsExt as _;

    let home = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::options();
    let path = home.path().join(".pgpass");
    let mut file = file.write(true).create_new(true).mode(0o600).open(path).unwrap();
    std::io::Write::write_all(
        &mut file,
        b"localhost:5432:d:u:local\n10.0.0.1:*:*:*:fixed\n*:*:*:*:any\n",
    )
    .unwrap();
    let env = [("HOME", home.path().to_str().unwrap())];
    for (text, expected) in [
        ("user=u dbname=d", "local"),
        ("user=u dbname=d host=/elsewhere", "any"),
        ("user=u hostaddr=10.0.0.1", "fixed"),
        ("user=u host=db hostaddr=10.0.0.1", "any"),
        ("user=u password=given", "given"),
    ] {
        let target = resolve(text, &env).unwrap();
        let password = target.password(&target.hosts[0]);
        assert_eq!(password.as_ref().map(Secret::expose), Some(expected), "{text}");
    }
    let target = resolve("user=u passfile=/absent", &env).unwrap();
    assert_eq!(target.password(&target.hosts[0]), None);
}

#[test]
fn timeouts_are_bounded_by_default_and_zero_lifts_them() {
    let of = |text: &str| resolve(text, &[]).unwrap();
    assert_eq!(of("user=u").connect_timeout, Some(Duration::from_secs(10)));
    assert_eq!(of("user=u connect_timeout=3").connect_timeout, Some(Duration::from_secs(3)));
    assert_eq!(of("user=u connect_timeout=0").connect_timeout, None);
    assert_eq!(of("user=u connect_timeout=-1").connect_timeout, None);
    assert_eq!(of("user=u").tcp.user_timeout, Some(Duration::from_secs(20)));
    assert_eq!(
        of("user=u tcp_user_timeout=1500").tcp.user_timeout,
        Some(Duration::from_millis(1500))
    );
    assert_eq!(of("user=u tcp_user_timeout=0").tcp.user_timeout, None);
    assert!(!of("user=u keepalives=0").tcp.keepalives);
}

#[test]
fn a_dsn_of_several_hosts_can_be_narrowed_down_to_one_of_them() {
    let env = [("PGHOST", "elsewhere"), ("PGHOSTADDR", "10.9.9.9"), ("PGPORT", "9")];
    for text in [
        "postgres://u:p@a:1,[::1]:2,%2Frun%2Fpg:3/d?sslmode=require",
        "user=u dbname=d hostaddr=10.0.0.1,::1",
        "user=u dbname=d host=a,b hostaddr=10.0.0.1,::1 port=1,2",
    ] {
        let whole = resolve(text, &[]).unwrap();
        for host in &whole.hosts {
            let one = text.parse::<Dsn>().unwrap().only(host);
            let one = one.resolve(&|name| {
                env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
            });
            let one = one.unwrap();
            assert_eq!(one.hosts, std::slice::from_ref(host), "{text}");
            assert_eq!((one.user, one.ssl.mode), (whole.user.clone(), whole.ssl.mode), "{text}");
        }
    }
}
