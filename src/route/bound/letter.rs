use std::mem;

use super::BoundRule;
use crate::notification::{
    Changed, ChannelName, Notification, Payload, Refusal, Why, minimal_may_exceed,
};
use crate::route::Oversize;
use crate::route::action::Rows;
use crate::route::channel::Rendered;
use crate::route::router::{Counts, Scratch};
use crate::route::rule::Options;
use crate::route::template::Unrenderable;
use crate::route::view::{Side, View};

/// What all events of one announcement share, besides what `Scratch` holds.
pub(super) struct Letter {
    /// Whether the row is deleted softly.
    pub(super) trashed: bool,
    channels: Vec<ChannelName>,
    /// Why some channels could not be named.
    refused: Vec<String>,
    payload: Payload,
    refusal: Option<Refusal>,
}

impl BoundRule {
    /// Leaves the id and the payload in `scratch`.
    pub(super) fn letter(
        &self,
        rows: Rows,
        view: &View<'_>,
        options: &Options,
        scratch: &mut Scratch,
        counts: &mut Counts,
    ) -> Letter {
        let mut letter = Letter {
            trashed: false,
            channels: Vec::with_capacity(self.channels.len()),
            refused: Vec::new(),
            payload: Payload::default(),
            refusal: None,
        };
        for side in rows.sides() {
            let view = view.from(*side);
            for channel in &self.channels {
                match channel.add(&view, &mut scratch.text, &mut letter.channels) {
                    Rendered::Kept => {}
                    Rendered::LeftOut => {
                        counts.null_channels += 1;
                        let template = || channel.template(view.change.relation);
                        self.let_go(&view, scratch, || Why::Channels { template: template() });
                    }
                    Rendered::Refused(reason) if letter.refused.contains(&reason) => {}
                    Rendered::Refused(reason) => letter.refused.push(reason),
                }
            }
        }
        if letter.is_empty() {
            return letter;
        }
        scratch.id.clear();
        if let Err(Unrenderable(reason)) = self.write_id(view, &mut scratch.id) {
            scratch.id.replace_range(.., "null");
            letter.refusal = Some(Refusal::Unrenderable { part: "id", reason });
        }
        let is_partial = self.write_data(view, options.max_data_bytes, &mut letter, scratch);
        counts.partial += u64::from(is_partial && letter.refusal.is_none());
        letter
    }

    /// Returns whether something smaller stands in for the rule's own.
    fn write_data(
        &self,
        view: &View<'_>,
        limit: usize,
        letter: &mut Letter,
        Scratch { data, columns, .. }: &mut Scratch,
    ) -> bool {
        let Some(template) = &self.data else {
            let changed = changed(view, columns);
            letter.payload = Payload::Minimal { changed, partial: false, draft: None };
            return false;
        };
        data.clear();
        let is_made = template.write(view, data).is_ok();
        let bytes = self.measure.bytes(data);
        if is_made && bytes > limit && self.oversize == Oversize::Reject {
            letter.refusal.get_or_insert(Refusal::Oversize { bytes, limit });
            letter.payload = Payload::Own(data.as_str().into());
            return false;
        }
        let text = (is_made && bytes <= limit).then(|| data.as_str().into());
        if let (None, Some(least)) = (&text, &self.least) {
            data.clear();
            if least.write(view, data).is_ok() && self.measure.bytes(data) <= limit {
                letter.payload = Payload::Own(data.as_str().into());
                return true;
            }
        }
        let draft = self.drawings.as_ref().map(|[old, new]| {
            let drawing = match view.side {
                Side::Old => old,
                Side::New => new,
            };
            Box::new(drawing.draft(view, changed(view, columns)))
        });
        letter.payload = match (text, draft) {
            (Some(text), None) => Payload::Own(text),
            (Some(text), Some(draft)) => Payload::Drawn { text, draft },
            (None, draft) => {
                Payload::Minimal { changed: changed(view, columns), partial: true, draft }
            }
        };
        matches!(letter.payload, Payload::Minimal { .. })
    }

    pub(super) fn post(
        &self,
        letter: Letter,
        view: &View<'_>,
        limit: usize,
        scratch: &Scratch,
        out: &mut Vec<Notification>,
    ) {
        let Letter { trashed, mut channels, refused, mut payload, refusal } = letter;
        let notification = |event_index, event, channels, payload, refusal| {
            let mut notification = Notification {
                terms: self.terms.clone(),
                shares: Vec::new(),
                action: view.action,
                id: scratch.id.as_str().into(),
                event,
                event_index,
                channels,
                payload,
                socket_id: view.change.context.and_then(|context| context.socket_id().cloned()),
                count: 1,
                position: view.change.transaction.position,
                at: view.change.transaction.at,
                resync: None,
                refusal,
            };
            if notification.refusal.is_none() {
                notification.refusal = self.oversize(&notification, limit);
            }
            notification
        };
        for (place, event) in self.events.iter().enumerate() {
            if !event.is_sent(view.action, trashed) {
                continue;
            }
            let index = event.index(place);
            let (event, nameless) = match event.name(view) {
                Ok(event) => (event, None),
                Err(reason) => {
                    let stand_in = "rowcast.unnamed".parse().expect("a valid event name");
                    (stand_in, Some(Refusal::Unrenderable { part: "event", reason }))
                }
            };
            if !refused.is_empty() {
                let reason = refused.join("; ");
                let refusal = Some(Refusal::Unrenderable { part: "channels", reason });
                let event = event.clone();
                out.push(notification(index, event, Vec::new(), payload.clone(), refusal));
            }
            if !channels.is_empty() {
                let is_last = place + 1 == self.events.len();
                let (channels, payload) = match is_last {
                    true => (mem::take(&mut channels), mem::take(&mut payload)),
                    false => (channels.clone(), payload.clone()),
                };
                let refusal = refusal.clone().or(nameless);
                out.push(notification(index, event, channels, payload, refusal));
            }
        }
    }

    /// Why a minimal payload cannot be sent. A rule's own was measured as it was
    /// made.
    fn oversize(&self, notification: &Notification, limit: usize) -> Option<Refusal> {
        let Notification { terms, id, payload: Payload::Minimal { .. }, .. } = notification else {
            return None;
        };
        if !minimal_may_exceed(limit, &terms.entity, id) {
            return None;
        }
        let bytes = self.measure.bytes(&notification.data());
        (bytes > limit).then_some(Refusal::Oversize { bytes, limit })
    }
}

/// `columns` is a buffer.
fn changed(view: &View<'_>, columns: &mut Vec<u16>) -> Option<Changed> {
    if !view.tells_changed() {
        return None;
    }
    columns.clear();
    columns.extend(view.changed()?);
    Changed::new(view.change.relation, columns)
}

impl Letter {
    /// Whether there is nothing to send and nothing to complain of.
    fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.refused.is_empty()
    }
}
