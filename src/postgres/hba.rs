//! Lines of pg_hba.conf.
//! <https://www.postgresql.org/docs/current/auth-pg-hba-conf.html>

use std::net::IpAddr;

use super::dsn::{Address, Host};

/// The line that lets `user` in to `database` at `host`. The `answer` of a server
/// that does not has the address which it sees us by.
pub(super) fn line(host: &Host, database: &str, user: &str, answer: &str) -> String {
    let (database, user) = (word(database), word(user));
    match host.address {
        Address::Unix(_) => format!("local {database} {user} scram-sha-256"),
        Address::Name(_) | Address::Fixed { .. } => {
            // Each server has its own words in its own language, and the same quotes.
            let mut quoted = answer.split('"').skip(1).step_by(2);
            let ours = match quoted.find_map(|text| text.parse::<IpAddr>().ok()) {
                Some(ip @ IpAddr::V4(_)) => format!("{ip}/32"),
                Some(ip @ IpAddr::V6(_)) => format!("{ip}/128"),
                None => "ADDRESS/32".to_owned(),
            };
            format!("host {database} {user} {ours} scram-sha-256")
        }
    }
}

/// A name as the file takes it: without quotes some are keywords, or patterns.
fn word(name: &str) -> String {
    const KEYWORDS: [&str; 5] = ["all", "sameuser", "samerole", "samegroup", "replication"];
    let is_plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-$".contains(c))
        && !KEYWORDS.contains(&name);
    if is_plain { name.to_owned() } else { format!("\"{name}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_the_address_that_the_server_sees() {
        let host = |address| Host { address, port: 5432 };
        let tcp = host(Address::Name("db".to_owned()));
        let of = |answer: &str| line(&tcp, "shop", "all", answer);
        assert_eq!(
            of("no pg_hba.conf entry for host \"10.0.0.7\", user \"all\", no encryption"),
            "host shop \"all\" 10.0.0.7/32 scram-sha-256"
        );
        assert!(of("kein Eintrag für Host \"fd00::7\"").contains(" fd00::7/128 "));
        assert!(of("PAM authentication failed for user \"all\"").contains(" ADDRESS/32 "));
        let local = host(Address::Unix("/run".into()));
        assert_eq!(line(&local, "a b", "r", ""), "local \"a b\" r scram-sha-256");
    }
}
