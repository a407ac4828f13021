// @ts-check
/**
 * Where the outbox keeps its entries: IndexedDB, one database per person, as several may share a browser.
 *
 * @typedef {import("./outbox.js").Entry} Entry
 * @typedef {import("./outbox.js").Storage} Storage
 */

const STORE = "outbox";

/**
 * @param {string} userId
 * @returns {Promise<Storage>} one that lasts only as long as the page where the browser allows nothing else
 */
export async function openStorage(userId) {
  try {
    return overDatabase(await openDatabase(`chat-${userId}`));
  } catch {
    return inMemory();
  }
}

/** @returns {Storage} */
export function inMemory() {
  /** @type {Map<string, Entry>} */
  const entries = new Map();
  return {
    all: async () => [...entries.values()],
    put: async (entry) => void entries.set(entry.client_msg_id, entry),
    delete: async (id) => void entries.delete(id),
  };
}

/**
 * @param {string} name
 * @returns {Promise<IDBDatabase>}
 */
function openDatabase(name) {
  const request = indexedDB.open(name, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "client_msg_id" });
  return fulfilled(request);
}

/**
 * @param {IDBDatabase} database
 * @returns {Storage}
 */
function overDatabase(database) {
  database.onversionchange = () => database.close();
  return {
    all: () => fulfilled(database.transaction(STORE).objectStore(STORE).getAll()),
    put: (entry) => write(database, (store) => store.put(entry)),
    delete: (id) => write(database, (store) => store.delete(id)),
  };
}

/**
 * @param {IDBDatabase} database
 * @param {(store: IDBObjectStore) => void} change
 * @returns {Promise<void>} fulfilled when it is on the disk
 */
function write(database, change) {
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, "readwrite", { durability: "strict" });
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
    change(transaction.objectStore(STORE));
  });
}

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function fulfilled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
