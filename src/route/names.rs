//! An entity's names, as Laravel would give them.

/// `order_statuses` is `order_status`: only the last word is made singular,
/// since Eloquent makes only that one plural.
pub(super) fn entity(table: &str) -> String {
    let start = table.rfind('_').map_or(0, |underscore| underscore + 1);
    let (head, last) = table.split_at(start);
    if last.is_empty() {
        return table.to_owned();
    }
    let exception = EXCEPTIONS.into_iter().find(|(plural, _)| *plural == last);
    match exception {
        Some((_, singular)) => format!("{head}{singular}"),
        None => format!("{head}{}", pluralizer::pluralize(last, 1, false)),
    }
}

/// Where Laravel's inflector and the crate's differ, among words that tables
/// are named by.
const EXCEPTIONS: [(&str, &str); 5] = [
    ("data", "data"),
    ("media", "medium"),
    ("metadata", "metadata"),
    ("proceedings", "proceedings"),
    ("sms", "sms"),
];

/// `order_status` is `OrderStatus`.
pub(super) fn studly(entity: &str) -> String {
    let mut studly = String::with_capacity(entity.len());
    for word in entity.split(['_', '-', ' ']) {
        let mut characters = word.chars();
        studly.extend(characters.next().into_iter().flat_map(char::to_uppercase));
        studly.push_str(characters.as_str());
    }
    studly
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_word_is_made_singular() {
        for (table, singular, name) in [
            ("posts", "post", "Post"),
            ("order_statuses", "order_status", "OrderStatus"),
            ("companies", "company", "Company"),
            ("people", "person", "Person"),
            ("news_items", "news_item", "NewsItem"),
            ("user_metadata", "user_metadata", "UserMetadata"),
            ("media", "medium", "Medium"),
            ("users_data_", "users_data_", "UsersData"),
            ("user-addresses", "user-address", "UserAddress"),
            ("", "", ""),
        ] {
            assert_eq!(entity(table), singular);
            assert_eq!(studly(singular), name);
        }
    }
}
