import { useLayoutEffect, useRef, useState } from "../vendor/vendor.js";
import { useElement } from "./html.js";

const END_PX = 4;

/**
 * A list that stays at its end while it grows, until the reader scrolls up; at the end again it stays there.
 *
 * @param {boolean} [active]
 */
export function useStick(active = true) {
  const element = useElement();
  const [atEnd, setAtEnd] = useState(true);
  const lastTop = useRef(0);
  useLayoutEffect(() => {
    if (active && atEnd && element.current) element.current.scrollTop = element.current.scrollHeight;
  });
  const onScroll = () => {
    const { scrollTop, scrollHeight, clientHeight } = element.current;
    if (scrollHeight - scrollTop - clientHeight < END_PX) setAtEnd(true);
    else if (scrollTop < lastTop.current) setAtEnd(false);
    lastTop.current = scrollTop;
  };
  return { element, onScroll, atEnd, toEnd: () => setAtEnd(true) };
}
