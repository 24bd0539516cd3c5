use crate::notification::{ChannelClass, ChannelName, EventName};

/// The line of Laravel Echo that hears `event` on `channel`. `None` for the
/// channel of one user, `#server-to-user-…`, which Echo does not listen to.
/// <https://laravel.com/docs/broadcasting#listening-for-events>
pub fn echo_line(channel: &ChannelName, event: &EventName) -> Option<String> {
    let name = channel.as_str();
    if name.starts_with('#') {
        return None;
    }
    let (method, prefix) = match channel.class() {
        ChannelClass::Public | ChannelClass::Cache => ("channel", ""),
        ChannelClass::Private | ChannelClass::PrivateCache => ("private", "private-"),
        ChannelClass::Encrypted | ChannelClass::EncryptedCache => {
            ("encryptedPrivate", "private-encrypted-")
        }
        ChannelClass::Presence | ChannelClass::PresenceCache => ("join", "presence-"),
    };
    let name = name.strip_prefix(prefix).expect("a class begins with its prefix");
    // Echo puts App\Events\ before a name and makes its dots backslashes, unless
    // the name begins with a dot.
    let listened = match event.as_str().strip_prefix(r"App\Events\") {
        Some(class) if is_class(class) => class.replace('\\', "."),
        _ => format!(".{}", event.as_str().replace('\\', r"\\").replace('\'', r"\'")),
    };
    Some(format!("Echo.{method}('{name}').listen('{listened}', …)"))
}

/// Whether a PHP class can be called so, below some namespace.
fn is_class(name: &str) -> bool {
    name.split('\\')
        .all(|part| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_echo_line_is_the_one_that_hears_the_event() {
        for (channel, event, line) in [
            ("posts", "PostUpdated", "Echo.channel('posts').listen('.PostUpdated', …)"),
            ("cache-posts", "x", "Echo.channel('cache-posts').listen('.x', …)"),
            ("private-posts.42", "x", "Echo.private('posts.42').listen('.x', …)"),
            ("private-cache-a", "x", "Echo.private('cache-a').listen('.x', …)"),
            ("presence-room.1", "x", "Echo.join('room.1').listen('.x', …)"),
            ("private-encrypted-a", "x", "Echo.encryptedPrivate('a').listen('.x', …)"),
            ("posts", r"App\Events\PostUpdated", "Echo.channel('posts').listen('PostUpdated', …)"),
            ("posts", r"App\Events\Blog\Post", "Echo.channel('posts').listen('Blog.Post', …)"),
            (
                "posts",
                r"App\Events\it's",
                r"Echo.channel('posts').listen('.App\\Events\\it\'s', …)",
            ),
            ("posts", r"Domain\Post's", r"Echo.channel('posts').listen('.Domain\\Post\'s', …)"),
        ] {
            let channel = channel.parse().expect("a channel");
            let event = event.parse().expect("an event");
            assert_eq!(echo_line(&channel, &event).as_deref(), Some(line));
        }
    }

    #[test]
    fn a_channel_of_one_user_has_no_line() {
        let channel = "#server-to-user-42".parse().expect("a channel");
        let event = "x".parse().expect("an event");
        assert_eq!(echo_line(&channel, &event), None);
    }
}
