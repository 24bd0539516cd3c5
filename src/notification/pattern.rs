use super::{ChannelClass, ChannelName};

/// The channels that a template may name: text, and values between it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelPattern {
    parts: Box<[Part]>,
    class: ChannelClass,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Text(Box<str>),
    Value {
        /// Whether dots may be in it.
        dotted: bool,
    },
}

impl ChannelPattern {
    /// `class` is that of every name which the template makes.
    pub fn new(parts: Vec<Part>, class: ChannelClass) -> ChannelPattern {
        ChannelPattern { parts: parts.into(), class }
    }

    pub fn class(&self) -> ChannelClass {
        self.class
    }

    /// The one channel that it names, if it has no value in it.
    pub fn constant(&self) -> Option<ChannelName> {
        match &*self.parts {
            [Part::Text(text)] => text.parse().ok(),
            _ => None,
        }
    }

    /// What every name begins with, to ask the endpoint by.
    pub fn prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => self.class.prefix(),
        }
    }

    /// Whether values name users' own channels, which no list has: a resync would not
    /// reach them.
    pub fn names_users(&self) -> bool {
        self.prefix().starts_with('#') && self.constant().is_none()
    }

    /// Whether some row could be announced on the channel.
    pub fn matches(&self, channel: &ChannelName) -> bool {
        channel.class() == self.class && fits(&self.parts, channel.as_str())
    }
}

/// Linear in the name for each part: names come from anyone who may subscribe.
fn fits(parts: &[Part], name: &str) -> bool {
    // Where in the name the parts so far may have ended.
    let mut ends = vec![false; name.len() + 1];
    ends[0] = true;
    for part in parts {
        let mut next = vec![false; name.len() + 1];
        match part {
            Part::Text(text) => {
                for start in (0..ends.len()).filter(|start| ends[*start]) {
                    if name.as_bytes()[start..].starts_with(text.as_bytes()) {
                        next[start + text.len()] = true;
                    }
                }
            }
            Part::Value { dotted } => {
                let mut is_within = false;
                for (at, byte) in name.bytes().map(Some).chain([None]).enumerate() {
                    is_within |= ends[at];
                    next[at] = is_within;
                    is_within &= byte.is_some_and(|byte| byte != b'#' && (byte != b'.' || *dotted));
                }
            }
        }
        ends = next;
    }
    ends[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(parts: &[&str]) -> ChannelPattern {
        let part = |text: &&str| match *text {
            "*" => Part::Value { dotted: false },
            "**" => Part::Value { dotted: true },
            text => Part::Text(text.into()),
        };
        let parts: Vec<Part> = parts.iter().map(part).collect();
        let Part::Text(head) = &parts[0] else { panic!("it begins with text") };
        let class = ChannelClass::of(head);
        ChannelPattern::new(parts, class)
    }

    #[test]
    fn a_pattern_takes_what_its_template_could_name_and_nothing_else() {
        let by_id = pattern(&["private-posts.", "*"]);
        for (name, fits) in [
            ("private-posts.42", true),
            ("private-posts.", true),
            ("private-posts.4.2", false),
            ("private-post.42", false),
            ("posts.42", false),
        ] {
            assert_eq!(by_id.matches(&name.parse().expect(name)), fits, "{name}");
        }
        let dotted = pattern(&["private-", "**", ".", "*"]);
        for (name, fits) in [
            ("private-App.Models.Post.1", true),
            ("private-a.1", true),
            ("private-a", false),
            ("private-cache-a.1", false),
        ] {
            assert_eq!(dotted.matches(&name.parse().expect(name)), fits, "{name}");
        }
        assert_eq!(by_id.prefix(), "private-posts.");
        assert_eq!(by_id.constant(), None);
        assert_eq!(pattern(&["posts"]).constant(), "posts".parse().ok());
        assert!(pattern(&["#server-to-user-", "*"]).names_users());
        assert!(!by_id.names_users() && !pattern(&["#server-to-user-42"]).names_users());
    }
}
