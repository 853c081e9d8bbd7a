// Texts that the browser keeps for this page. One that is full, or may keep nothing, refuses; then the page remembers them.

/** Texts by name in the storage that `find` returns, as far as it takes them, else in this page's memory. */
export function keeping(find) {
  const unkept = new Map();
  const kept = (use) => {
    try {
      return { value: use(find()) };
    } catch {
      return null;
    }
  };
  return {
    /** The text of a name; null where there is none. */
    get: (name) => unkept.get(name) ?? kept((storage) => storage.getItem(name))?.value ?? null,

    set(name, text) {
      if (kept((storage) => storage.setItem(name, text))) unkept.delete(name);
      else unkept.set(name, text);
    },

    forget(name) {
      kept((storage) => storage.removeItem(name));
      unkept.delete(name);
    },

    /** Whether a reload would lose the text of a name. */
    loses: (name) => unkept.has(name),
  };
}

/** What lasts, in all tabs. */
export const lasting = keeping(() => localStorage);

/** What lasts as long as this tab. */
export const ofTab = keeping(() => sessionStorage);
