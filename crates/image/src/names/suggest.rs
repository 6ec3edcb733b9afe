//! Names that are spelled nearly like one that was not found.

/// Most names suggested.
const MOST: usize = 3;

/// The names of `known` that are nearest to `wanted`, nearest first.
pub fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted: Vec<u8> = wanted.to_ascii_lowercase().into_bytes();
    // One letter in three may be wrong.
    let limit = (wanted.len() / 3).min(5);
    let mut best: Vec<(usize, &str)> = Vec::new();
    for name in known {
        let bound = if best.len() == MOST { best.last().map_or(limit, |b| b.0) } else { limit };
        let Some(distance) = distance(&wanted, name, bound) else { continue };
        if !best.iter().any(|b| b.1 == name) {
            let at = best.partition_point(|b| (b.0, b.1) <= (distance, name));
            best.insert(at, (distance, name));
            best.truncate(MOST);
        }
    }
    best.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// Letters to insert, delete, replace or swap with their neighbour to make `name` of `wanted` (lower case);
/// case does not count. `None` if more than `limit`.
fn distance(wanted: &[u8], name: &str, limit: usize) -> Option<usize> {
    if wanted.len().abs_diff(name.len()) > limit {
        return None;
    }
    let name = name.to_ascii_lowercase().into_bytes();
    let (mut above2, mut above) = (vec![0; name.len() + 1], (0..=name.len()).collect::<Vec<usize>>());
    for (i, &w) in wanted.iter().enumerate() {
        let mut row = Vec::with_capacity(name.len() + 1);
        row.push(i + 1);
        for (j, &n) in name.iter().enumerate() {
            let mut cost = (above[j] + usize::from(w != n)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && w == name[j - 1] && wanted[i - 1] == n {
                cost = cost.min(above2[j - 1] + 1);
            }
            row.push(cost);
        }
        if row.iter().min().is_none_or(|&least| least > limit) {
            return None;
        }
        above2 = std::mem::replace(&mut above, row);
    }
    above.last().copied().filter(|&d| d <= limit)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_are_understood() {
        let known = ["malloc", "calloc", "realloc", "free", "memalign", "strlen"];
        assert_eq!(nearest("mallco", known.into_iter()).first().map(String::as_str), Some("malloc"));
        assert_eq!(nearest("Malloc", known.into_iter()).first().map(String::as_str), Some("malloc"));
        assert_eq!(nearest("strnel", known.into_iter()).first().map(String::as_str), Some("strlen"));
        assert!(nearest("gtk_window_new", known.into_iter()).is_empty());
    }
}
