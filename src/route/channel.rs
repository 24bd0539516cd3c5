//! Channel names, partly from row values. Whatever a row holds, the name stays
//! within the template's frame and class.

use super::rule::Options;
use super::template::{BoundPart, BoundTemplate, Part, Printed, Template, Unrenderable};
use super::view::View;
use crate::change::Relation;
use crate::notification::{self, ChannelClass, ChannelName, ChannelPattern, NameHash};

/// A template that cannot become a channel of another class.
#[derive(Clone, Debug)]
pub(super) struct ChannelTemplate {
    pub template: Template,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChannelTemplateError {
    #[error("the channel name is empty")]
    Empty,
    #[error(
        "it begins with {head:?}, which a value could make a {class} channel; \
         the beginning must be text that tells the class"
    )]
    Class { head: String, class: &'static str },
    #[error("{0:?} may not be in a channel name")]
    Character(char),
    #[error("its text has {0} bytes, and the servers take {max}", max = ChannelName::MAX_LEN)]
    TooLong(usize),
    #[error("it is an encrypted channel, and `encryption_key` of [pusher] is not set")]
    NoKey,
}

impl ChannelTemplateError {
    pub(super) fn fix(&self, text: &str) -> Option<String> {
        match self {
            ChannelTemplateError::Class { .. } => {
                Some(format!("for example \"private-{text}\", or \"rows.{text}\" if it is public"))
            }
            ChannelTemplateError::NoKey => Some(
                "in [pusher]: encryption_key = \"…\", the application's own: Laravel's option \
                 encryption_master_key_base64;\nfor a new one: openssl rand -base64 32"
                    .to_owned(),
            ),
            ChannelTemplateError::Character('\\') => {
                let dotted = text.replace('\\', ".");
                Some(format!("channels = [{dotted:?}], as Laravel names a model's channel"))
            }
            _ => None,
        }
    }
}

const DOT: &str = "a value has '.', which only an expression that ends in `| dotted` brings into a \
                   channel name";

const BACKSLASH: &str = "a value has '\\\\', as class names do, which may not be in a channel name: \
                         `| dotted` makes App.Models.Post of it";

/// What the literal beginning of a name says about its class, `open` if a value
/// follows. A value may still lengthen `private-` to `private-cache-`, which is
/// seen when it is rendered; but it must not make a public name a private one.
fn class_of_head(
    head: &str,
    open: bool,
    options: &Options,
) -> Result<ChannelClass, ChannelTemplateError> {
    let class = ChannelClass::of(head);
    if class.is_encrypted() && !options.encrypts {
        return Err(ChannelTemplateError::NoKey);
    }
    if open
        && class == ChannelClass::Public
        && let Some(becomes) = ChannelClass::after(head)
    {
        return Err(ChannelTemplateError::Class {
            head: head.to_owned(),
            class: becomes.prefix().trim_end_matches('-'),
        });
    }
    Ok(class)
}

fn check_text(text: &str, is_first: bool) -> Result<(), ChannelTemplateError> {
    let rest = if is_first { text.strip_prefix('#').unwrap_or(text) } else { text };
    match rest.chars().find(|c| !c.is_ascii() || !ChannelName::allows(*c as u8)) {
        Some(character) => Err(ChannelTemplateError::Character(character)),
        None => Ok(()),
    }
}

impl ChannelTemplate {
    pub(super) fn new(
        template: Template,
        options: &Options,
    ) -> Result<ChannelTemplate, ChannelTemplateError> {
        let mut len = 0;
        for (index, part) in template.parts.iter().enumerate() {
            if let Part::Text(text) = part {
                check_text(text, index == 0)?;
                len += text.len();
            }
        }
        if len > ChannelName::MAX_LEN {
            return Err(ChannelTemplateError::TooLong(len));
        }
        let is_fixed = |part: &Part| matches!(part, Part::Variable(known) if known.is_static());
        match &*template.parts {
            [] => return Err(ChannelTemplateError::Empty),
            [Part::Text(text)] if text.trim_start_matches('#').is_empty() => {
                return Err(ChannelTemplateError::Empty);
            }
            [Part::Text(text)] => drop(class_of_head(text, false, options)?),
            // What the table's or entity's name makes of it is seen when bound.
            [first, ..] if is_fixed(first) => {}
            [Part::Text(_), second, ..] if is_fixed(second) => {}
            [Part::Text(text), ..] => drop(class_of_head(text, true, options)?),
            [_, ..] => drop(class_of_head("", true, options)?),
        }
        Ok(ChannelTemplate { template })
    }

    pub(super) fn bind(
        &self,
        relation: &Relation,
        options: &Options,
        print: impl Fn(&Part) -> Option<String>,
    ) -> BoundChannel {
        let mut parts: Vec<BoundPart> = Vec::new();
        for (part, bound) in self.template.parts.iter().zip(self.template.bind(relation).parts) {
            let text = match part {
                Part::Text(text) => Some(text.to_string()),
                part => print(part),
            };
            match (text, parts.last_mut()) {
                (Some(text), Some(BoundPart::Text(before))) => {
                    *before = format!("{before}{text}").into();
                }
                (Some(text), _) => parts.push(BoundPart::Text(text.into())),
                (None, _) => parts.push(bound),
            }
        }
        let class = match &*parts {
            [BoundPart::Text(text)] => class_of_head(text, false, options),
            [BoundPart::Text(text), ..] => class_of_head(text, true, options),
            _ => class_of_head("", true, options),
        };
        // Also of what the table's or the entity's name has made of it.
        let texts = parts.iter().enumerate().try_for_each(|(index, part)| match part {
            BoundPart::Text(text) => check_text(text, index == 0),
            _ => Ok(()),
        });
        let class = texts.and(class);
        let constant = match (&*parts, &class) {
            ([BoundPart::Text(text)], Ok(_)) => text.parse().ok(),
            _ => None,
        };
        BoundChannel { template: BoundTemplate { parts }, class, constant }
    }
}

/// A channel's template on one relation.
#[derive(Clone, Debug)]
pub(super) struct BoundChannel {
    template: BoundTemplate,
    class: Result<ChannelClass, ChannelTemplateError>,
    constant: Option<ChannelName>,
}

/// What became of one channel of one change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rendered {
    /// It is among the channels, now or already.
    Kept,
    /// A NULL leaves it out.
    LeftOut,
    Refused(String),
}

/// What one channel of a change that is only counted is called.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hashed {
    /// As for all changes.
    Constant,
    Name(NameHash),
    /// A NULL leaves it out.
    LeftOut,
    Refused,
}

impl BoundChannel {
    pub(super) fn problem(&self) -> Option<&ChannelTemplateError> {
        self.class.as_ref().err()
    }

    /// What anyone may listen to, if it is that: `posts.…`.
    pub(super) fn public_name(&self) -> Option<String> {
        if !matches!(self.class, Ok(ChannelClass::Public | ChannelClass::Cache)) {
            return None;
        }
        let parts = self.template.parts.iter().map(|part| match part {
            BoundPart::Text(text) => text,
            _ => "…",
        });
        Some(parts.collect())
    }

    /// As the rule has it, near enough: `private-posts.{{ id }}`.
    pub(super) fn template(&self, relation: &Relation) -> String {
        let parts = self.template.parts.iter().map(|part| match part {
            BoundPart::Text(text) => text.to_string(),
            BoundPart::Column { index, .. } => {
                format!("{{{{ {} }}}}", relation.columns[*index].name)
            }
            _ => "…".to_owned(),
        });
        parts.collect()
    }

    /// Every name that it may make; `None` if it can make none.
    pub(super) fn pattern(&self) -> Option<ChannelPattern> {
        let class = *self.class.as_ref().ok()?;
        let parts = self.template.parts.iter().map(|part| match part {
            BoundPart::Text(text) => notification::Part::Text(text.clone()),
            BoundPart::Expression { dotted, .. } => notification::Part::Value { dotted: *dotted },
            BoundPart::Variable(_)
            | BoundPart::Column { .. }
            | BoundPart::NoColumn(_)
            | BoundPart::Parent(_)
            | BoundPart::Block(_) => notification::Part::Value { dotted: false },
        });
        Some(ChannelPattern::new(parts.collect(), class))
    }

    /// Adds the channel of the view's row to `channels`, once.
    pub(super) fn add(
        &self,
        view: &View<'_>,
        scratch: &mut String,
        channels: &mut Vec<ChannelName>,
    ) -> Rendered {
        if let Some(constant) = &self.constant {
            if !channels.contains(constant) {
                channels.push(constant.clone());
            }
            return Rendered::Kept;
        }
        scratch.clear();
        match self.render(view, scratch) {
            Ok(Printed::Null) => return Rendered::LeftOut,
            Ok(Printed::Value) => {}
            Err(reason) => return Rendered::Refused(reason),
        }
        if channels.iter().any(|channel| channel.as_str() == scratch) {
            return Rendered::Kept;
        }
        match scratch.parse() {
            Ok(channel) => {
                channels.push(channel);
                Rendered::Kept
            }
            Err(error) => Rendered::Refused(error.to_string()),
        }
    }

    /// The same name as [`BoundChannel::add`] would add.
    pub(super) fn hash(&self, view: &View<'_>, scratch: &mut String) -> Hashed {
        if self.constant.is_some() {
            return Hashed::Constant;
        }
        scratch.clear();
        match self.render(view, scratch) {
            Ok(Printed::Null) => Hashed::LeftOut,
            Ok(Printed::Value) if ChannelName::check(scratch).is_ok() => {
                Hashed::Name(NameHash::of(scratch))
            }
            Ok(Printed::Value) | Err(_) => Hashed::Refused,
        }
    }

    fn render(&self, view: &View<'_>, out: &mut String) -> Result<Printed, String> {
        let class = self.class.as_ref().map_err(ToString::to_string)?;
        for part in &self.template.parts {
            let start = out.len();
            let printed = part.text(view, out).map_err(|Unrenderable(reason)| reason)?;
            if printed == Printed::Null {
                return Ok(Printed::Null);
            }
            let dots = match part {
                BoundPart::Text(_) | BoundPart::Variable(_) => continue,
                BoundPart::Expression { dotted, .. } => *dotted,
                _ => false,
            };
            let value = &out[start..];
            let is_bad = |byte: u8| !ChannelName::allows(byte) || (byte == b'.' && !dots);
            // All that is allowed is ASCII, so the first bad byte begins a character.
            let Some(at) = value.bytes().position(is_bad) else { continue };
            let bad = value[at..].chars().next().expect("a byte is there");
            return Err(match bad {
                '.' => DOT.to_owned(),
                '\\' => BACKSLASH.to_owned(),
                bad => format!("a value has {bad:?}, which may not be in a channel name"),
            });
        }
        if ChannelClass::of(out) != *class {
            return Err("a value would make it another class of channel".to_owned());
        }
        Ok(Printed::Value)
    }
}
