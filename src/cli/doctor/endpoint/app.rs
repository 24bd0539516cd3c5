//! Whether the endpoint takes the app's id, key and secret; and if not, which of
//! them it is. What a request met with one of them changed decides: what makes no
//! difference is wrong, or is not looked at before what is.

use url::Url;

use crate::cli::doctor::report::Check;
use crate::deliver::pusher::{Change, Config, Effect, Examination, Problem};

const NAME: &str = "app";

pub(super) fn check(examination: &Examination, config: &Config) -> Check {
    let id = config.app_id.as_str();
    match &examination.known {
        Ok(()) => Check::holds(NAME, format!("{id} is known, with its key and secret")),
        Err(problem) => Check::fails(NAME, problem.to_string(), fix(problem, examination, config)),
    }
}

fn fix(problem: &Problem, examination: &Examination, config: &Config) -> Option<String> {
    let effect = |change| {
        let trial = examination.trials.iter().find(|trial| trial.change == change);
        trial.map(|trial| trial.effect)
    };
    let endpoint = config.endpoint().ok()?;
    let prefix = endpoint.prefix();
    if effect(Change::NoPrefix) == Some(Effect::Mends) {
        let origin = endpoint.origin();
        return Some(format!("url = \"{origin}\" in [pusher]: it answers without {prefix}"));
    }
    if effect(Change::PrefixSigned) == Some(Effect::Mends) {
        let signed = !config.signs_path_prefix();
        return Some(format!("sign_path_prefix = {signed} in [pusher]: with that it answers"));
    }
    let forward = format!("a proxy before it must forward {prefix}/apps with its query string");
    let same = |change| effect(change) == Some(Effect::None);
    match problem {
        Problem::Redirected { location, .. } => {
            let address = moved_to(location).unwrap_or_else(|| "…".to_owned());
            Some(format!("url = \"{address}\" in [pusher], where that leads; or: {forward}"))
        }
        Problem::NotAnAnswer { .. } => Some(format!(
            "`url` in [pusher] leads to another program: use the server's own port; or: {forward}"
        )),
        Problem::Answered { code, message } => {
            match (same(Change::AppId), same(Change::Key), same(Change::Secret)) {
                (true, false, false) => Some(
                    "`app_id` in [pusher] is not that of `key`: compare them with the \
                          server's"
                        .to_owned(),
                ),
                (true, false, true) => Some(
                    "`app_id` in [pusher] is not that of `key`, or `secret` is not the app's"
                        .to_owned(),
                ),
                (false, false, true) => {
                    Some("`secret` in [pusher] is not that of the app".to_owned())
                }
                (false, true, false) => Some("`key` in [pusher] is not that of the app".to_owned()),
                (false, true, true) => {
                    Some("`secret` in [pusher], or `key`, is not that of the app".to_owned())
                }
                (true, true, false) => Some(
                    "`app_id` or `key` in [pusher] is not one that the server knows".to_owned(),
                ),
                // It looks at nothing that was sent, or at something before.
                (true, true, true) => Some(match code {
                    404 if !message.is_empty() => format!(
                        "`app_id` or `key` in [pusher] is not one that the server knows; or the \
                         path of `url` is wrong: {forward}"
                    ),
                    404 => format!("the path of `url` in [pusher] is wrong, or: {forward}"),
                    _ if same(Change::NoQuery) => format!("{forward}, and ask for no login"),
                    _ => "`key` in [pusher] is not one that the server knows, or this machine's \
                          clock is minutes off"
                        .to_owned(),
                }),
                (false, false, false) => problem.hint().map(str::to_owned),
            }
        }
        problem => problem.hint().map(str::to_owned),
    }
}

/// The address that `url` may have, from where a request was sent on to.
fn moved_to(location: &str) -> Option<String> {
    let url = Url::parse(location).ok()?;
    let (prefix, _) = url.path().split_once("/apps/")?;
    Some(format!("{}{prefix}", url.origin().ascii_serialization()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::pusher::{ServerMessage, Trial};

    fn config(options: &str) -> Config {
        let text = format!("app_id = '1001'\nkey = 'k'\nsecret = 's'\n{options}");
        toml::from_str(&text).expect("it parses")
    }

    /// What is told of an answer, with these changes of no effect.
    fn told(code: u16, same: &[Change]) -> String {
        use Change::{AppId, Key, NoQuery, Secret};

        let effect = |change| match same.contains(&change) {
            true => Effect::None,
            false => Effect::Other,
        };
        let trials = [AppId, Key, Secret, NoQuery]
            .map(|change| Trial { change, effect: effect(change) })
            .to_vec();
        fixed(Problem::Answered { code, message: ServerMessage::new("words") }, trials, "")
    }

    fn fixed(problem: Problem, trials: Vec<Trial>, path: &str) -> String {
        let known = Err(problem);
        let examination =
            Examination { known, skew_seconds: None, trials, batch: None, largest: None };
        let config = config(&format!("url = 'https://ws.example{path}'"));
        let Err(problem) = &examination.known else { unreachable!("it is an error") };
        fix(problem, &examination, &config).expect("there is a fix")
    }

    /// As observed: what each server looks at first.
    #[test]
    fn what_makes_no_difference_is_what_is_wrong() {
        use Change::{AppId, Key, NoQuery, Secret};

        for (server, code, same, fix) in [
            ("Sockudo, another secret", 401, &[Secret][..], "`secret` in [pusher] is not"),
            ("Sockudo, another app id", 401, &[AppId, Secret], "`app_id` in [pusher] is not that"),
            ("Sockudo, another key", 404, &[AppId, Key, Secret], "`app_id` or `key` in [pusher]"),
            ("Reverb, another app", 404, &[AppId, Key, Secret, NoQuery], "`app_id` or `key`"),
            ("Soketi, another secret", 401, &[Key, Secret], "`secret` in [pusher], or `key`"),
            ("Reverb, another secret", 401, &[Key, Secret, NoQuery], "`secret` in [pusher], or"),
            ("Sockudo, an old clock", 401, &[AppId, Key, Secret], "clock is minutes off"),
            ("a login", 401, &[AppId, Key, Secret, NoQuery], "ask for no login"),
            ("no query", 400, &[AppId, Key, Secret, NoQuery], "with its query string"),
        ] {
            let said = told(code, same);
            assert!(said.contains(fix), "{server}: {said}");
        }
    }

    #[test]
    fn what_would_work_is_told_as_the_option_to_set() {
        let refused = || Problem::Answered { code: 401, message: ServerMessage::default() };
        let mends = |change| vec![Trial { change, effect: Effect::Mends }];
        let fix = fixed(refused(), mends(Change::PrefixSigned), "/ws");
        assert_eq!(fix, "sign_path_prefix = false in [pusher]: with that it answers");
        let fix = fixed(refused(), mends(Change::NoPrefix), "/ws");
        assert_eq!(fix, "url = \"https://ws.example\" in [pusher]: it answers without /ws");
        let moved = |location: &str| {
            let location = location.to_owned();
            fixed(Problem::Redirected { status: 301, location }, Vec::new(), "")
        };
        let fix = moved("https://ws.example/reverb/apps/1001/channels");
        assert!(fix.starts_with("url = \"https://ws.example/reverb\" in [pusher]"), "{fix}");
        let fix = moved("/login");
        assert!(fix.ends_with("must forward /apps with its query string"), "{fix}");
    }
}
