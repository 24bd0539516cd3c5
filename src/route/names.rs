//! An entity's names, as Laravel would give them.

use super::singular::singular;

/// `order_statuses` is `order_status`: only the last word is made singular,
/// since Eloquent makes only that one plural.
pub fn entity(table: &str) -> String {
    let start = table.rfind(['_', '-', ' ']).map_or(0, |separator| separator + 1);
    let (head, last) = table.split_at(start);
    format!("{head}{}", singular(last))
}

/// `order_status` is `OrderStatus`.
pub fn studly(entity: &str) -> String {
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
            ("news-items", "news-item", "NewsItem"),
            ("People", "Person", "Person"),
            ("STATUSES", "STATUS", "STATUS"),
            ("boîtes", "boîte", "Boîte"),
            ("s", "s", "S"),
            ("", "", ""),
        ] {
            assert_eq!(entity(table), singular);
            assert_eq!(studly(singular), name);
        }
    }

    /// The table is made with Laravel's own `Str`. All 99 are equal; of 1,644
    /// further words (singulars and what Laravel makes of them as plurals, tried
    /// once with its inflector) 36 were not, such as `caves`, which there is
    /// `cafe`.
    #[test]
    fn a_tables_model_is_laravels() {
        let table = include_str!("tests/laravel-model-names.tsv");
        let cases = table.lines().filter(|line| !line.starts_with('#'));
        for (name, model) in cases.filter_map(|line| line.split_once('\t')) {
            assert_eq!(studly(&entity(name)), model, "{name}");
        }
    }
}
