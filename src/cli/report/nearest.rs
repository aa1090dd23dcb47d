//! The name that a user may have meant.

/// The name that is most similar to `word`, if one is similar: it differs only in case, begins with the word, or differs in at
/// most a third of the characters of the word.
pub fn nearest<'n>(word: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let word = word.to_lowercase();
    let length = word.chars().count();
    // A name that begins with the word counts as one difference, so that a shorter name is not nearer.
    let difference = |name: &str| {
        let name = name.to_lowercase();
        let is_start = length >= 3 && name.starts_with(&word);
        // Ids can be long and many: those that cannot be similar are not compared.
        let is_similar = is_start || name.chars().count().abs_diff(length) <= length / 3;
        let differs = is_similar.then(|| strsim::osa_distance(&word, &name))?;
        if is_start { Some(differs.min(1)) } else { Some(differs).filter(|&differs| differs <= length / 3) }
    };
    let similar = names.into_iter().filter_map(|name| Some((difference(name)?, name)));
    similar.min_by_key(|&(differs, _)| differs).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn only_a_similar_name_is_near() {
        let names = ["laptop", "Web-Server", "ab", "2a3f5c3e9d", "laptops of the office", "b"];
        let cases = [
            ("lapotp", Some("laptop")),
            ("laptpo", Some("laptop")),
            ("LAPTOP", Some("laptop")),
            ("laptops", Some("laptop")),
            ("laptops o", Some("laptops of the office")),
            ("web-server", Some("Web-Server")),
            ("2a3", Some("2a3f5c3e9d")),
            ("aB", Some("ab")),
            ("a", None),
            ("ac", None),
            ("", None),
            ("server", None),
            ("tablet", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, names), expected, "{word}");
        }
    }
}
