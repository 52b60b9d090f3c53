//! A symbol and a colour for each layer.

/// What stands for a layer where there are no colours.
const SYMBOLS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Colours from the lowest layer to the highest: cold below, warm above.
const ANCHORS: [(u8, u8, u8); 8] = [
    (0x3b, 0x5b, 0xc0),
    (0x2a, 0x9f, 0xd6),
    (0x1f, 0xb9, 0xa0),
    (0x6c, 0xb8, 0x44),
    (0xe0, 0xb9, 0x32),
    (0xee, 0x86, 0x36),
    (0xd6, 0x45, 0x40),
    (0xa8, 0x3a, 0x94),
];

/// Symbols and colours of a stack. Neighbours share a symbol where there are more layers than symbols.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    layers: usize,
}

impl Palette {
    pub(super) fn new(layers: usize) -> Self {
        Self { layers }
    }

    /// How many layers share a symbol.
    pub(super) fn layers_per_symbol(self) -> usize {
        self.layers.div_ceil(SYMBOLS.len()).max(1)
    }

    pub(super) fn symbol(self, layer: usize) -> char {
        let position = layer / self.layers_per_symbol();
        SYMBOLS.get(position).map_or('?', |byte| char::from(*byte))
    }

    /// Red, green and blue.
    pub(super) fn colour(self, layer: usize) -> (u8, u8, u8) {
        let last_anchor = ANCHORS.len() - 1;
        // Between which anchors, and how far from one to the other in 256ths. Few layers take every second anchor, so
        // that they do not look alike.
        let steps = self.layers.saturating_sub(1).max(1);
        let span = match self.layers {
            0..=4 => steps * 2,
            _ => last_anchor,
        };
        let position = layer.min(steps) * span * 256 / steps;
        let (anchor, between) = (position / 256, position % 256);
        let from = ANCHORS.get(anchor).copied().unwrap_or_default();
        let to = ANCHORS.get(anchor + 1).copied().unwrap_or(from);
        let mix = |from: u8, to: u8| {
            let mixed = (usize::from(from) * (256 - between) + usize::from(to) * between) / 256;
            u8::try_from(mixed).unwrap_or(u8::MAX)
        };
        (mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
    }

    /// The nearest of the 216 colours that terminals have.
    pub(super) fn ansi(self, layer: usize) -> u8 {
        let level = |value: u8| (u16::from(value) * 5 + 127) / 255;
        let (red, green, blue) = self.colour(layer);
        let index = 16 + 36 * level(red) + 6 * level(green) + level(blue);
        u8::try_from(index).unwrap_or(u8::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_layers_have_symbols_and_colours_of_their_own() {
        for count in 1..=16 {
            let palette = Palette::new(count);
            let mut looks: Vec<_> = (0..count)
                .map(|layer| (palette.symbol(layer), palette.colour(layer)))
                .collect();
            looks.sort_unstable();
            for pair in looks.windows(2) {
                assert_ne!(pair[0].0, pair[1].0, "{count}");
            }
            looks.sort_unstable_by_key(|look| look.1);
            for pair in looks.windows(2) {
                assert_ne!(pair[0].1, pair[1].1, "{count}");
            }
        }
    }

    #[test]
    fn every_layer_of_the_tallest_stack_has_a_symbol() {
        let palette = Palette::new(255);
        assert_eq!(palette.layers_per_symbol(), 5);
        assert_eq!(palette.symbol(0), palette.symbol(4));
        assert_ne!(palette.symbol(4), palette.symbol(5));
        assert!((0..255).all(|layer| palette.symbol(layer) != '?' && palette.ansi(layer) >= 16));
        assert_eq!(palette.colour(254), ANCHORS[7]);
    }
}
