//! Promise: a converted image holds exactly the files that its layers make together, layer by layer, in a sound file
//! system, the same bytes every time; and whatever is wrong with a layout is said by name.

#[cfg(test)]
mod convert;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod inspect;
#[cfg(test)]
mod model;
