//! The line of Laravel Echo that hears a notification.

use crate::notification::{ChannelClass, ChannelName, EventName};

/// `Echo.private('posts.42').listen('.PostUpdated', () => refetch())`. The dot
/// makes Echo take the event's name literally. `None` for a channel of one user,
/// `#server-to-user-…`, which Echo does not listen to.
/// <https://laravel.com/docs/broadcasting#listening-for-events>
pub(super) fn line(channel: &ChannelName, event: &EventName) -> Option<String> {
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
    let name = name.strip_prefix(prefix).unwrap_or(name);
    let event = event.as_str().replace('\\', r"\\").replace('\'', r"\'");
    Some(format!("Echo.{method}('{name}').listen('.{event}', () => refetch())"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_of_channel_has_its_own_call() {
        for (channel, event, expected) in [
            (
                "posts",
                "PostUpdated",
                "Echo.channel('posts').listen('.PostUpdated', () => refetch())",
            ),
            ("private-a.1", "x.y", "Echo.private('a.1').listen('.x.y', () => refetch())"),
            ("presence-r", "X", "Echo.join('r').listen('.X', () => refetch())"),
            (
                "private-encrypted-e",
                "X",
                "Echo.encryptedPrivate('e').listen('.X', () => refetch())",
            ),
            ("private-cache-c", "X", "Echo.private('cache-c').listen('.X', () => refetch())"),
            ("cache-c", "X", "Echo.channel('cache-c').listen('.X', () => refetch())"),
            (
                "posts",
                r"App\Events\PostUpdated",
                r"Echo.channel('posts').listen('.App\\Events\\PostUpdated', () => refetch())",
            ),
        ] {
            let line = line(&channel.parse().unwrap(), &event.parse().unwrap());
            assert_eq!(line.as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_channel_of_one_user_has_no_line() {
        let channel = "#server-to-user-42".parse().unwrap();
        assert_eq!(line(&channel, &"X".parse().unwrap()), None);
    }
}
